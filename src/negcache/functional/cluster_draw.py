"""The cluster proposal: a cell by its size and the score of its centre, then any of its members.

``Q(y) = exp(V_c) / Zhat`` for every member y of cell c that may stand for the query, of which there
are n_c, and ``Zhat = sum_c n_c exp(V_c)``: a law over these items from the scores of the centres
alone. It is exact for the cells used, however old these are. Source: Monath et al., AISTATS 2023;
that what is excluded has no part in it is ours.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch

from negcache.exclusion import Exclusion
from negcache.functional.two_stage import Cumulative, add_up, invert
from negcache.shapes import Bool, Float, Float64, Int, Tensor


class Cut(NamedTuple):
    """For each query a partition of the items, which stand in a row, into cells of neighbours.

    Cells come in the order of their members. What a query does not use, to fill a row up, has the
    value -inf, size 0, and lies behind all items. Where all queries share the cells, fields other
    than the values are one row, expanded, and what follows from them is found once.

    Args:
        values: V, the logit of each cell's centre.
        first: place of each cell's first member.
        size: number of its members.
        radius: distance within which all members are of the centre.
    """

    values: Float64[Tensor, "B W"]
    first: Int[Tensor, "B W"]
    size: Int[Tensor, "B W"]
    radius: Float[Tensor, "B W"]

    def of(self, rows: Int[Tensor, "b"] | slice) -> "Cut":
        """The cut of some of the queries."""
        values = self.values[rows]
        return Cut(
            values,
            *(
                field[:1].expand(len(values), -1) if _is_one_row(field) else field[rows]
                for field in self[1:]
            ),
        )

    @property
    def num_items(self) -> int:
        """Places of the row of items: the last cell of every query ends there."""
        return int(self.first[0, -1] + self.size[0, -1]) if self.first.numel() else 0

    def raised(self, reach: Float64[Tensor, "B"]) -> "Cut":
        """With ``V + reach radius``: no member scores above it.

        Args:
            reach: how fast the logit of each query can change with distance: scale times norm.
        """
        return self._replace(values=self.values + reach[:, None] * self.radius)


class Members(NamedTuple):
    """Drawn items: the cell of each in its query's cut, and its place among all items."""

    cells: Int[Tensor, "B *m"]
    places: Int[Tensor, "B *m"]


@dataclass(frozen=True)
class CellLaw:
    """Q of each query; what follows from it is worked out once.

    Args:
        cut: the cells with all of their members.
        exclude: the places of the items that may not stand for each query; Q gives them nothing.
    """

    cut: Cut
    exclude: Exclusion

    def of(self, rows: Int[Tensor, "b"]) -> "CellLaw":
        """The law of some of the queries."""
        return CellLaw(self.cut.of(rows), self.exclude.of(rows))

    @cached_property
    def log_masses(self) -> Float64[Tensor, "B W"]:
        """log of ``n_c exp(V_c)``."""
        cut, rows = self.cut, self.exclude.rows
        size = cut.size[:1] if _is_one_row(cut.size) else cut.size
        masses = cut.values + size.double().log()
        width = masses.shape[1]
        # In the order of rows and places, so also of cells.
        held = rows * width + cells_holding(cut, rows, self.exclude.ids)
        keys, gone = torch.unique_consecutive(held, return_counts=True)
        where = keys // width, keys % width
        masses[where] = cut.values[where] + (cut.size[where] - gone).double().log()
        return masses

    @cached_property
    def log_norm(self) -> Float64[Tensor, "B"]:
        """log Zhat; -inf where a query may draw nothing."""
        return self._sums.log_total

    @property
    def barren(self) -> Bool[Tensor, "B"]:
        """Which queries may draw nothing."""
        return self.log_norm == -torch.inf

    @cached_property
    def _sums(self) -> Cumulative:
        return add_up(self.log_masses)

    def draw(self, noise: Float64[Tensor, "B m 2"]) -> Members:
        """Independent draws: a uniform each for the cell and for the member.

        Some item where a query may draw nothing.
        """
        cut, exclude = self.cut, self.exclude
        cells, num_items = invert(self._sums.sums, noise[..., 0].contiguous()), cut.num_items
        first, size = cut.first.gather(1, cells), cut.size.gather(1, cells)
        before = exclude.below(first, num_items)
        left = size - exclude.below(first + size, num_items) + before
        inside = torch.minimum((noise[..., 1] * left).long(), left - 1).clamp_min(0)
        return Members(cells, exclude.allowed(first - before + inside, num_items))

    def log_chance(self, places: Int[Tensor, "M"]) -> Float64[Tensor, "B M"]:
        """log Q of each item, for every query; -inf at place -1, which no item has."""
        cut, inside = self.cut, places.clamp_min(0)
        if _is_one_row(cut.first):
            values = cut.values[:, _cells_of_one_row(cut, inside)]
        else:
            rows = torch.arange(len(cut.values), device=places.device)[:, None]
            rows = rows.expand(-1, len(places))
            values = cut.values.gather(1, cells_holding(cut, rows, inside.expand_as(rows)))
        nothing = self.exclude.mask(places) | (places < 0)
        return (values - self.log_norm[:, None]).masked_fill(nothing, -torch.inf)

    def best(self, count: int) -> "CellLaw":
        """The law of the ``count`` cells of highest V: items of the others are never drawn."""
        values = self.cut.values
        if count >= values.shape[1]:
            return self
        alive = values.masked_fill(self.log_masses == -torch.inf, -torch.inf)
        kept = torch.zeros_like(values, dtype=torch.bool)
        kept.scatter_(1, alive.topk(count, dim=1).indices, True)
        return replace(self, cut=self.cut._replace(values=values.where(kept, -torch.inf)))


def cells_holding(
    cut: Cut, rows: Int[Tensor, "*shape"], places: Int[Tensor, "*shape"]
) -> Int[Tensor, "*shape"]:
    """Which cell of query ``rows[i]`` the item at ``places[i]`` is in."""
    if _is_one_row(cut.first):
        return _cells_of_one_row(cut, places)
    width, span = cut.first.shape[1], cut.num_items + 1
    queries = torch.arange(len(cut.first), device=rows.device)[:, None]
    found = torch.searchsorted(
        (queries * span + cut.first).flatten(), rows * span + places, right=True
    )
    return found - 1 - rows * width


def refined(
    coarse: Cut,
    chosen: Int[Tensor, "B T"],
    children: Cut,
    used: Bool[Tensor, "B n"],
) -> Cut:
    """The adaptive cut: the chosen coarse cells give way to their children, the others stay.

    Args:
        coarse: the cut that all queries start from.
        chosen: distinct columns of ``coarse``.
        children: the children of the chosen, in any order.
        used: which columns of ``children`` are no filling.
    """
    kept = torch.ones_like(coarse.values, dtype=torch.bool).scatter_(1, chosen, False)
    used = torch.cat([kept, used], dim=1)
    values, first, size, radius = (
        torch.cat(pair, dim=1) for pair in zip(coarse, children, strict=True)
    )
    behind = coarse.num_items
    values = values.masked_fill(~used, -torch.inf)
    first, size = first.masked_fill(~used, behind), size.masked_fill(~used, 0)
    order = (2 * first + size.clamp(max=1)).argsort(dim=1)  # the empty before what starts there
    fields = (values, first, size, radius.to(values.dtype))
    return Cut(*(field.gather(1, order) for field in fields))


def _is_one_row(field: Tensor) -> bool:
    """Whether all queries share it: one row, expanded."""
    return len(field) > 0 and field.stride(0) == 0


def _cells_of_one_row(cut: Cut, places: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    return torch.searchsorted(cut.first[0].contiguous(), places, right=True) - 1
