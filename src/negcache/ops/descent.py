"""Sums of kernel features as the queries of one step see them, known positives taken away."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from negcache.ops.drawn_blocks import BLOCK, GATHER
from negcache.ops.kernels import Kernel
from negcache.ops.scored_rows import ScoredRows
from negcache.shapes import Float, Int, Tensor


@runtime_checkable
class Sums(Protocol):
    """Sums of item features over nodes of equally many children, from the blocks up."""

    @property
    def levels(self) -> list[Float[Tensor, "n F"]]: ...

    @property
    def counts(self) -> list[Float[Tensor, "n"]]: ...

    @property
    def arity(self) -> int: ...

    def top_masses(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B n"]:
        """Products with the uppermost level."""
        ...


class Excluded(NamedTuple):
    """What queries may not draw, and its kernel: taken away from the masses of its nodes.

    Args:
        queries: ascending.
        slots: ascending within a query.
        mass: the exact kernel of each pair.
        smallest: the least kernel of a row that is left.
    """

    queries: Int[Tensor, "E"]
    slots: Int[Tensor, "E"]
    mass: Float[Tensor, "E"]
    smallest: float

    def of_queries(self, start: int, stop: int) -> "Excluded":
        some = (self.queries >= start) & (self.queries < stop)
        return Excluded(
            self.queries[some] - start, self.slots[some], self.mass[some], self.smallest
        )


@dataclass(frozen=True)
class Descent:
    """The sums as the queries of one step see them: the uppermost level is scored once.

    Args:
        rows: the exact kernel inside a block is read from them.
        sums: of the features of these rows.
        kernel: of the sums.
        features: of the queries.
        excluded: what they may not draw.
        top: masses of the uppermost nodes.
    """

    rows: ScoredRows
    sums: Sums
    kernel: Kernel
    features: Float[Tensor, "B F"]
    excluded: Excluded
    top: Float[Tensor, "B n"]

    @staticmethod
    @torch.no_grad()
    def begin(rows: ScoredRows, sums: Sums, kernel: Kernel) -> "Descent":
        features = kernel.query_features(rows.queries, rows.score.scale)
        excluded, height = _excluded(rows, kernel), len(sums.levels) - 1
        span = BLOCK * sums.arity**height
        top = _without(sums.top_masses(features), sums.counts[height], excluded, span)
        return Descent(rows, sums, kernel, features, excluded, top)

    @property
    def log_mass(self) -> Float[Tensor, "B"]:
        return self.top.sum(dim=1).log()

    def of_queries(self, start: int, stop: int) -> "Descent":
        """The same for some of the queries."""
        return Descent(
            self.rows.of_queries(start, stop), self.sums, self.kernel,
            self.features[start:stop], self.excluded.of_queries(start, stop), self.top[start:stop],
        )  # fmt: skip


def _excluded(rows: ScoredRows, kernel: Kernel) -> Excluded:
    kept = rows.valid[rows.exclude.ids]
    queries, slots = rows.exclude.rows[kept], rows.exclude.ids[kept]
    dots = [rows.queries.new_empty(0)]
    size = max(1, GATHER // rows.queries.shape[1])
    for some, where in zip(queries.split(size), slots.split(size), strict=True):
        table = rows.rows(where).to(rows.queries.dtype)
        dots.append((rows.queries[some] * table).sum(dim=1))
    mass = kernel.kernel(torch.cat(dots), rows.score.scale)
    return Excluded(queries, slots, mass, kernel.smallest)


def _without(
    mass: Float[Tensor, "B n"], counts: Float[Tensor, "n"], excluded: Excluded, span: int
) -> Float[Tensor, "B n"]:
    """Masses of the top nodes less what is excluded; at least ``smallest`` for each row left."""
    place = excluded.queries, excluded.slots // span
    left = counts.expand(mass.shape).clone()
    return clipped(mass, left, place, excluded.mass, excluded.smallest)


def clipped(
    mass: Float[Tensor, "*P c"],
    left: Float[Tensor, "*P c"],
    place: tuple[Int[Tensor, "e"], ...],
    excluded: Float[Tensor, "e"],
    smallest: float,
) -> Float[Tensor, "*P c"]:
    """Masses less what is excluded at some places, and what is then left; in place."""
    mass.index_put_(place, -excluded, accumulate=True)
    left.index_put_(place, excluded.new_full((), -1.0), accumulate=True)
    empty = left < 0.5
    return torch.maximum(mass, left.mul_(smallest), out=mass).masked_fill_(empty, 0.0)
