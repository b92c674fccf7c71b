"""Very many labels: precision at k, and what it would be had no label been missed."""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.run.evaluation.search import top_k_arriving
from negcache.score import Score
from negcache.shapes import Float, Int, Tensor

AT = (1, 3, 5)
"""The k that extreme classification reports."""


@runtime_checkable
class LabelTable(Protocol):
    """The labels of every point: point i owns ``items[offsets[i]:offsets[i + 1]]``, ascending."""

    @property
    def offsets(self) -> np.ndarray: ...
    @property
    def items(self) -> np.ndarray: ...


def inverse_propensity(
    counts: Int[Tensor, "L"], points: int, *, a: float = 0.55, b: float = 1.5
) -> Float[Tensor, "L"]:
    """1 / p_l: how much a hit on each label counts; rare labels are the ones annotators miss.

    ``p_l = 1 / (1 + C (n_l + B)^-A)``, ``C = (log N - 1) (B + 1)^A``. Source: Jain, Prabhu, Varma,
    KDD 2016, with their A and B for data without estimates of its own.

    Args:
        counts: n_l, training points of each label.
        points: N, training points; at least 3, or C would be negative.
        a: A.
        b: B.
    """
    if points < 3:
        raise InputError("at least 3 training points", f"{points}", "a propensity needs log N > 1")
    c = (math.log(points) - 1) * (b + 1) ** a
    return (1 + c * (counts.double() + b) ** -a).float()


def evaluate_labels(
    points: Float[Tensor, "Q D"],
    labels: Iterable[tuple[Int[Tensor, "c"], Float[Tensor, "c D"]]],
    score: Score,
    truth: LabelTable,
    inverse_propensities: Float[Tensor, "L"],
) -> dict[str, float]:
    """Search all labels for every point, exactly; P@k and PSP@k for k = 1, 3, 5.

    Labels are searched as they are embedded: held are the points, their best labels and a chunk.

    Args:
        points: embedded points.
        labels: chunks of labels, their ids and embeddings, all L in order: as
            ``encoded(label_tower, features, score)`` gives them.
        score: (points, labels) -> logits.
        truth: labels of each point.
        inverse_propensities: of each label, from the training points.

    Raises:
        InputError: the labels are no chunks, or fewer than the largest k.
    """
    if isinstance(labels, Tensor):
        raise InputError(
            "labels in chunks of ids and embeddings",
            f"one tensor of shape {tuple(labels.shape)}",
            "pass encoded(label_tower, features, score) of negcache.run.evaluation",
        )
    found = top_k_arriving(points, labels, score, max(AT))[1]
    return label_metrics(found, truth, inverse_propensities)


def label_metrics(
    found: Int[Tensor, "Q k"],
    truth: LabelTable,
    inverse_propensities: Float[Tensor, "L"],
    at: Sequence[int] = AT,
) -> dict[str, float]:
    """``{"p1": ..., "psp1": ...}``, fractions of 1, as the XC repository's scripts compute them.

    P@k is the share of the first k that are true, over all points, those without a label included.
    PSP@k weighs each hit by the label's inverse propensity and divides the sum over all points by
    the best sum any ranking attains.

    Args:
        found: labels of each point, best first.
        truth: labels of each point.
        inverse_propensities: of each label.
        at: the k to report.

    Raises:
        InputError: fewer labels found than the largest k, or not one row for each point.
    """
    table = Exclusion(torch.tensor(truth.offsets).long(), torch.tensor(truth.items).long())
    if len(found) != table.num_rows or found.shape[1] < max(at):
        raise InputError(
            f"at least {max(at)} labels for each of {table.num_rows} points",
            f"found of shape {tuple(found.shape)}",
            "search as many labels for the points that `truth` was made for",
        )
    rows = torch.arange(len(found))[:, None].expand_as(found).contiguous()
    hits = table.contains(rows, found)
    gains = hits * inverse_propensities[found].double()
    ideal = _largest_first(table, inverse_propensities, max(at))
    values = {f"p{k}": hits[:, :k].double().mean().item() for k in at}
    return values | {f"psp{k}": _share(gains[:, :k], ideal[:, :k]) for k in at}


def _share(gains: Tensor, ideal: Tensor) -> float:
    best = ideal.sum().item()
    return gains.sum().item() / best if best else 0.0


def _largest_first(table: Exclusion, values: Tensor, k: int) -> Tensor:
    """For each point the k largest values of its true labels, padded with 0, [Q, k]."""
    own = values[table.ids].double()
    order = own.argsort(descending=True, stable=True)
    order = order[table.rows[order].argsort(stable=True)]  # by point, the largest value first
    place = torch.arange(len(own)) - table.offsets[table.rows]
    kept = place < k
    padded = own.new_zeros(table.num_rows, k)
    padded[table.rows[kept], place[kept]] = own[order][kept]
    return padded
