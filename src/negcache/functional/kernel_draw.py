"""Draws from sums of kernel features: down from a level scored at once, to a cell, to a row.

The law of a draw is the product of the branches taken, each as it was really taken: masses that
were negative (random features can be) are raised to the kernel's smallest value, known positives
are taken away, and a cell's rows are scored by the exact kernel. So the reported chance is that of
the draw made, however old or rough the sums are; old sums cost efficiency alone.

Everything here speaks of slots, not of items.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch

from negcache.functional.features import Kernel
from negcache.functional.grouped import grouped_dots
from negcache.functional.two_stage import CELL, GATHER
from negcache.protocols import Request, Rows
from negcache.shapes import Float, Float64, Int, Tensor


@runtime_checkable
class Sums(Protocol):
    """Sums of item features over nodes of equally many children, from the cells up."""

    @property
    def levels(self) -> list[Float[Tensor, "n F"]]: ...

    @property
    def counts(self) -> list[Float[Tensor, "n"]]: ...

    @property
    def arity(self) -> int: ...

    def top_masses(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B n"]:
        """Products with the uppermost level."""
        ...


class Barred(NamedTuple):
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


class Drawn(NamedTuple):
    """Rows, and the log-chance of drawing each; -inf where the way down ended at nothing."""

    slots: Int[Tensor, "B m"]
    log_chance: Float64[Tensor, "B m"]


@torch.no_grad()
def draw_by_sums(
    request: Request,
    rows: Rows,
    sums: Sums,
    kernel: Kernel,
    noise: Float[Tensor, "B m levels"],
    wanted: Int[Tensor, "B m"] | None = None,
) -> Drawn:
    """Draw rows by ``K(h, e)``, approximately, and say how likely each was.

    Args:
        request: in slots.
        rows: the exact kernel inside a cell is read from them.
        sums: of the features of these rows.
        kernel: of the sums.
        noise: a uniform for every level of the sums and one for the cell.
        wanted: rows whose chance is asked for instead of a draw; -1: draw one; None: draw all.
    """
    features = kernel.query_features(request.queries, request.score.scale)
    barred = _barred(request, rows, kernel)
    height = len(sums.levels) - 1
    span = CELL * sums.arity**height
    mass = _without(sums.top_masses(features), sums.counts[height], barred, span)
    node, log_chance = _pick(mass, None, noise[..., height + 1], _inside(wanted, None, span))
    for level in range(height - 1, -1, -1):
        span //= sums.arity
        pairs, place = _pairs(node)
        mass, order = _child_masses(features, sums, level, pairs, barred, span)
        inside = _inside(wanted, node * sums.arity, span)
        child, log_share = _pick(mass, order[place], noise[..., level + 1], inside)
        node, log_chance = node * sums.arity + child, log_chance + log_share
    pairs, place = _pairs(node)
    mass, order = _cell_masses(request, rows, kernel, sums.counts[0], pairs, barred)
    row, log_share = _pick(mass, order[place], noise[..., 0], _inside(wanted, node * CELL, 1))
    slots = (node * CELL + row).clamp_(max=rows.num_rows - 1)
    return Drawn(slots, log_chance + log_share)


def _inside(wanted: Tensor | None, first: Tensor | None, span: int) -> Tensor | None:
    """Which child of its node each wanted row is below; negative where none is wanted."""
    if wanted is None:
        return None
    child = wanted if span == 1 else wanted // span
    return child if first is None else child - first


def _barred(request: Request, rows: Rows, kernel: Kernel) -> Barred:
    exclude = request.exclude
    kept = rows.valid[exclude.ids]
    queries, slots = exclude.rows[kept], exclude.ids[kept]
    dots = [request.queries.new_empty(0)]
    for some, where in zip(queries.split(GATHER), slots.split(GATHER), strict=True):
        table = rows.rows(where).to(request.queries.dtype)
        dots.append((request.queries[some] * table).sum(dim=1))
    return Barred(
        queries, slots, kernel.kernel(torch.cat(dots), request.score.scale), kernel.smallest
    )


def _without(
    mass: Float[Tensor, "B n"],
    counts: Float[Tensor, "n"],
    barred: Barred,
    span: int,
) -> Float[Tensor, "B n"]:
    """Masses of the top nodes less what is barred; at least ``smallest`` for each row left."""
    place = barred.queries, barred.slots // span
    return _raised(mass, counts.expand(mass.shape).clone(), place, barred.mass, barred.smallest)


def _raised(
    mass: Float[Tensor, "P c"],
    left: Float[Tensor, "P c"],
    place: tuple[Int[Tensor, "e"], Int[Tensor, "e"]],
    barred: Float[Tensor, "e"],
    smallest: float,
) -> Float[Tensor, "P c"]:
    """Masses less what is barred at some places, and what is then left; in place."""
    mass.index_put_(place, -barred, accumulate=True)
    left.index_put_(place, barred.new_full((), -1.0), accumulate=True)
    empty = left < 0.5
    return torch.maximum(mass, left.mul_(smallest), out=mass).masked_fill_(empty, 0.0)


class Pairs(NamedTuple):
    """Distinct (query, node) pairs, ordered by node and query."""

    queries: Int[Tensor, "P"]
    nodes: Int[Tensor, "P"]
    keys: Int[Tensor, "P"]
    num_queries: int


def _pairs(nodes: Int[Tensor, "B m"]) -> tuple[Pairs, Int[Tensor, "B m"]]:
    """The distinct pairs, and which of them each draw is at."""
    count = len(nodes)
    queries = torch.arange(count, device=nodes.device)[:, None]
    keys, place = torch.unique(nodes * count + queries, return_inverse=True)
    distinct = keys // count
    return Pairs(keys - distinct * count, distinct, keys, count), place


def _child_masses(
    features: Float[Tensor, "B F"],
    sums: Sums,
    level: int,
    pairs: Pairs,
    barred: Barred,
    span: int,
) -> tuple[Float[Tensor, "P arity"], Int[Tensor, "P"]]:
    """Masses of the children of each pair's node, less what is barred there.

    In an order of their own; where each pair is comes second.
    """
    blocks = sums.levels[level].view(-1, sums.arity, features.shape[1])
    mass, order = grouped_dots(
        features, lambda n: blocks.index_select(0, n), sums.arity, pairs.queries, pairs.nodes
    )
    counts = sums.counts[level].view(-1, sums.arity).index_select(0, pairs.nodes)
    left = torch.empty_like(counts).index_copy_(0, order, counts)
    pair, found = _find(pairs, barred, barred.slots // (span * sums.arity))
    place = order[pair], barred.slots[found] // span % sums.arity
    return _raised(mass, left, place, barred.mass[found], barred.smallest), order


def _cell_masses(
    request: Request,
    rows: Rows,
    kernel: Kernel,
    counts: Float[Tensor, "n"],
    pairs: Pairs,
    barred: Barred,
) -> tuple[Float[Tensor, "P CELL"], Int[Tensor, "P"]]:
    """The exact kernel of the rows of each pair's cell, 0 where one may not be drawn.

    In an order of their own; where each pair is comes second.
    """
    inside = torch.arange(CELL, device=pairs.nodes.device)

    def slots(nodes: Tensor) -> Tensor:
        return nodes[:, None] * CELL + inside

    def cells(nodes: Tensor) -> Tensor:
        held = slots(nodes).clamp_(max=rows.num_rows - 1).flatten()
        return rows.rows(held).view(len(nodes), CELL, -1)

    dots, order = grouped_dots(request.queries, cells, CELL, pairs.queries, pairs.nodes)
    mass = kernel.kernel(dots, request.score.scale)
    partial = (counts[pairs.nodes] < CELL).nonzero().squeeze(1)
    if len(partial):
        some = slots(pairs.nodes[partial])
        there = rows.valid[some.clamp(max=rows.num_rows - 1)] & (some < rows.num_rows)
        mass[order[partial]] *= there
    pair, found = _find(pairs, barred, barred.slots // CELL)
    mass[order[pair], barred.slots[found] % CELL] = 0.0
    return mass, order


def _find(
    pairs: Pairs, barred: Barred, nodes: Int[Tensor, "E"]
) -> tuple[Int[Tensor, "e"], Int[Tensor, "e"]]:
    """Where barred (query, node) pairs are among ``pairs``: their places, and which they are."""
    keys = nodes * pairs.num_queries + barred.queries
    place = torch.searchsorted(pairs.keys, keys).clamp_(max=len(pairs.keys) - 1)
    found = (pairs.keys[place] == keys).nonzero().squeeze(1)
    return place[found], found


def _pick(
    mass: Float[Tensor, "P c"],
    place: Int[Tensor, "B m"] | None,
    uniforms: Float[Tensor, "B m"],
    wanted: Int[Tensor, "B m"] | None,
) -> tuple[Int[Tensor, "B m"], Float64[Tensor, "B m"]]:
    """For each draw a column by its mass, or the wanted one; and the log of its share.

    Args:
        place: the row of masses that each draw is at; None: that of its query.
        wanted: columns; negative: draw one; None: draw all.

    Where a query has no mass at all its column is the first, which is always there: the last ones
    of a level may be padding without children.
    """
    cdf, width = mass.cumsum(dim=1), mass.shape[1]
    if place is None:
        total = cdf[:, -1:].expand(uniforms.shape)
        column = torch.searchsorted(cdf, _below(uniforms, total), right=True).clamp_(max=width - 1)
        column.mul_(total > 0)
        start = torch.arange(0, mass.numel(), width, device=mass.device)[:, None]
    else:
        start = place * width
        total = _at(cdf, start + (width - 1))
        column = _search(cdf, start, _below(uniforms, total))
    if wanted is not None:
        column = torch.where(wanted < 0, column, wanted.clamp(max=width - 1))
    share = _at(mass, start + column).double()
    return column, (share / total.double().clamp_min(torch.finfo(total.dtype).tiny)).log_()


def _search(
    cdf: Float[Tensor, "P c"], start: Int[Tensor, "B m"], target: Float[Tensor, "B m"]
) -> Int[Tensor, "B m"]:
    """How many of the first c - 1 entries from ``start`` on are not above the target; c = 2^k."""
    step, first = cdf.shape[1] // 2, start - 1
    found = first.clone()
    while step:
        found += (_at(cdf, found + step) <= target) * step
        step //= 2
    return found - first


def _at(table: Float[Tensor, "P c"], place: Int[Tensor, "B m"]) -> Float[Tensor, "B m"]:
    """Entries by their place in the flattened table."""
    return table.view(-1).index_select(0, place.flatten()).view(place.shape)


def _below(uniforms: Float[Tensor, "B m"], total: Float[Tensor, "B m"]) -> Float[Tensor, "B m"]:
    """``u * total``, less than the total even after rounding."""
    target = (uniforms * total).to(total.dtype)
    return torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
