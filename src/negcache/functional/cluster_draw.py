"""The cluster proposal: a cell by its size and the score of its centre, then any of its members.

``Q(y) = exp(V_c) / Zhat`` for every member y of cell c, ``Zhat = sum_c n_c exp(V_c)``: a law over
all items from the scores of the centres alone. It is exact for the cells used, however old these
are. Source: Monath et al., AISTATS 2023.
"""

from typing import NamedTuple

import torch

from negcache.functional.two_stage import invert_cdf
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


class Members(NamedTuple):
    """Drawn items: the cell of each in its query's cut, and its place among all items."""

    cells: Int[Tensor, "B *m"]
    places: Int[Tensor, "B *m"]


def log_masses(cut: Cut) -> Float64[Tensor, "B W"]:
    """log of ``n_c exp(V_c)``."""
    size = cut.size[:1] if _is_one_row(cut.size) else cut.size
    return cut.values + size.double().log()


def log_norm(cut: Cut) -> Float64[Tensor, "B"]:
    """log Zhat."""
    return torch.logsumexp(log_masses(cut), dim=1)


def draw_members(cut: Cut, noise: Float64[Tensor, "B m 2"]) -> Members:
    """Independent draws from Q: a uniform each for the cell and for the member."""
    cells = invert_cdf(log_masses(cut), noise[..., 0].contiguous())
    size = cut.size.gather(1, cells)
    inside = torch.minimum((noise[..., 1] * size).long(), size - 1)
    return Members(cells, cut.first.gather(1, cells) + inside)


def cells_holding(
    cut: Cut, rows: Int[Tensor, "*shape"], places: Int[Tensor, "*shape"]
) -> Int[Tensor, "*shape"]:
    """Which cell of query ``rows[i]`` the item at ``places[i]`` is in."""
    if _is_one_row(cut.first):
        return _cells_of_one_row(cut, places)
    width = cut.first.shape[1]
    span = int(cut.first.max()) + int(cut.size.max()) + 1 if width else 1
    queries = torch.arange(len(cut.first), device=rows.device)[:, None]
    found = torch.searchsorted(
        (queries * span + cut.first).flatten(), rows * span + places, right=True
    )
    return found - 1 - rows * width


def log_chance(cut: Cut, places: Int[Tensor, "M"]) -> Float64[Tensor, "B M"]:
    """log Q of each item, for every query."""
    if _is_one_row(cut.first):
        values = cut.values[:, _cells_of_one_row(cut, places)]
    else:
        rows = torch.arange(len(cut.values), device=places.device)[:, None].expand(-1, len(places))
        values = cut.values.gather(1, cells_holding(cut, rows, places.expand(len(rows), -1)))
    return values - log_norm(cut)[:, None]


def without(cut: Cut, rows: Int[Tensor, "E"], places: Int[Tensor, "E"]) -> Cut:
    """The cut with fewer members for query ``rows[i]``, by the item at ``places[i]``.

    For sums over what is left alone: the places of a cell are no longer those of its members.
    """
    cells = cells_holding(cut, rows, places)
    gone = -torch.ones_like(cells)
    return cut._replace(size=cut.size.index_put((rows, cells), gone, accumulate=True))


def raised(cut: Cut, reach: Float64[Tensor, "B"]) -> Cut:
    """The cut with ``V + reach radius``: no member scores above it.

    Args:
        reach: how fast the logit of each query can change with distance: scale times norm.
    """
    return cut._replace(values=cut.values + reach[:, None] * cut.radius)


def best_cells(cut: Cut, count: int) -> Cut:
    """The cut with only the ``count`` cells of highest V: items of the others are never drawn."""
    if count >= cut.values.shape[1]:
        return cut
    alive = cut.values.masked_fill(cut.size == 0, -torch.inf)
    kept = torch.zeros_like(cut.values, dtype=torch.bool)
    kept.scatter_(1, alive.topk(count, dim=1).indices, True)
    return cut._replace(values=cut.values.where(kept, -torch.inf))


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
    behind = int((coarse.first + coarse.size).max())
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
