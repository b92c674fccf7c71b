"""Low-rank coordinates of items, and the way from old coordinates to the embeddings of today.

With inner products as similarity the Nystroem approximation *is* the orthogonal projection onto the
span of the landmarks: one orthonormal basis Q serves both sides, ``<h, e> ~ <Q^T h, Q^T e>``.
Coordinates carry a last column of ones, so that an affine map is one matrix [C, D]. Whatever is
solved is solved in float64. Source: Monath et al., AISTATS 2023, section 4, in better condition.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from negcache.errors import InputError
from negcache.shapes import Float, Tensor


class Composed(NamedTuple):
    """A map taken apart into a projection and what stored coordinates must take before it.

    Args:
        move: stored coordinates become ``z @ move``.
        map: from the new coordinates to embeddings: an orthonormal basis, and an offset that is
            orthogonal to it.
    """

    move: Float[Tensor, "C K"]
    map: Float[Tensor, "K D"]


def landmark_basis(landmarks: Float[Tensor, "L D"]) -> Float[Tensor, "D _"]:
    """Orthonormal basis of the landmarks' span; the axes themselves where they span everything.

    Directions whose singular value is lost in rounding are left out: landmarks that repeat or
    depend on each other give fewer columns.

    Raises:
        InputError: all landmarks are zero, or there are none.
    """
    _, sizes, directions = torch.linalg.svd(landmarks.double(), full_matrices=False)
    lost = max(landmarks.shape) * torch.finfo(landmarks.dtype).eps
    rank = int((sizes > lost * sizes[:1]).sum())
    if not rank:
        raise InputError(
            "landmarks other than zero",
            f"{len(landmarks)} rows of norm 0",
            "give the item tower a bias, or look at what it encodes",
        )
    basis = directions[:rank].T if rank < landmarks.shape[1] else torch.eye(rank).to(directions)
    return basis.to(landmarks.dtype).contiguous()


def project(rows: Float[Tensor, "M D"], basis: Float[Tensor, "D L"]) -> Float[Tensor, "M C"]:
    """Coordinates ``[Q^T e, 1]``."""
    return with_ones(rows @ basis)


def with_ones(reduced: Float[Tensor, "M L"]) -> Float[Tensor, "M C"]:
    return F.pad(reduced, (0, 1), value=1.0)


def map_of_basis(basis: Float[Tensor, "D L"]) -> Float[Tensor, "C D"]:
    """The way back while nothing has moved: ``[Q^T; 0]``."""
    return F.pad(basis.T, (0, 0, 0, 1))


def ridge(
    stale: Float[Tensor, "s C"],
    residual: Float[Tensor, "s D"],
    penalty: float,
    *,
    dual: bool | None = None,
) -> Float[Tensor, "C D"]:
    """Least squares from coordinates to residuals with ``penalty * s`` on all but the intercept.

    ``W = (X^T X + penalty s I0)^-1 X^T Y``, I0 the identity with 0 for the column of ones.

    Args:
        stale: coordinates, the last column ones.
        residual: what is to be explained; residuals of a map so far draw the penalty towards it.
        penalty: more than 0.
        dual: solve in s instead of C unknowns; None: in the fewer.
    """
    rows, targets = stale.double(), residual.double()
    weight = penalty * len(rows)
    if dual is None:
        dual = len(rows) < rows.shape[1]
    if not dual:
        shrink = torch.full_like(rows[0], weight)
        shrink[-1] = 0.0
        solved = torch.linalg.solve(rows.T @ rows + shrink.diag(), rows.T @ targets)
        return solved.to(residual.dtype)
    centre, mean = rows[:, :-1].mean(dim=0), targets.mean(dim=0)
    rows = rows[:, :-1] - centre
    gram = rows @ rows.T
    gram.diagonal().add_(weight)
    slope = rows.T @ torch.linalg.solve(gram, targets - mean)
    return torch.cat([slope, (mean - centre @ slope)[None]]).to(residual.dtype)


def compose(map: Float[Tensor, "C D"]) -> Composed:
    """Write a map as a move of the coordinates and a projection: the same embeddings.

    With ``R, c = map[:-1], map[-1]`` the new basis is ``Q = orth(R^T)`` and the coordinates become
    ``z R Q + c Q``; what Q does not hold of c stays an offset.
    """
    basis = landmark_basis(map[:-1])
    move = F.pad(map @ basis, (0, 1))
    move[-1, -1] = 1.0
    offset = map[-1] - move[-1, :-1] @ basis.T
    return Composed(move, torch.cat([basis.T, offset[None]]))


def find_coordinates(
    rows: Float[Tensor, "M D"],
    full: Callable[[Float[Tensor, "n C"]], Float[Tensor, "n D"]],
    rank: int,
    rounds: int = 3,
) -> Float[Tensor, "M C"]:
    """The coordinates that look like these embeddings today: least squares.

    Exact after one round where ``full`` is affine; else chord steps, each kept by the rows that it
    brings nearer.

    Args:
        full: from coordinates to embeddings.
        rank: L, columns of the coordinates without the ones.
    """
    origin = rows.new_zeros(1, rank)
    slope = full(with_ones(torch.eye(rank).to(rows))) - full(with_ones(origin))
    back = torch.linalg.pinv(slope.double()).to(rows.dtype)
    found = origin.expand(len(rows), -1)
    missed = rows - full(with_ones(found))
    for _ in range(rounds):
        tried = found + missed @ back
        left = rows - full(with_ones(tried))
        nearer = left.square().sum(dim=1, keepdim=True) < missed.square().sum(dim=1, keepdim=True)
        found, missed = tried.where(nearer, found), left.where(nearer, missed)
    return with_ones(found)


def mean_cosine(found: Float[Tensor, "n D"], truth: Float[Tensor, "n D"]) -> float:
    """Mean cosine between rows of the same number; 0 where one of the two is zero."""
    return float(F.cosine_similarity(found.double(), truth.double(), dim=1).mean())
