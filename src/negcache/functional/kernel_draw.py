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
from negcache.shapes import Bool, Float, Float64, Int, Tensor


@runtime_checkable
class Sums(Protocol):
    """Sums of item features over nodes of equally many children, from the cells up."""

    @property
    def levels(self) -> list[Float[Tensor, "n F"]]: ...

    @property
    def counts(self) -> list[Float[Tensor, "n"]]: ...

    @property
    def arity(self) -> int: ...


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
    wanted: Int[Tensor, "B m"],
) -> Drawn:
    """Draw rows by ``K(h, e)``, approximately, and say how likely each was.

    Args:
        request: in slots.
        rows: the exact kernel inside a cell is read from them.
        sums: of the features of these rows.
        kernel: of the sums.
        noise: a uniform for every level of the sums and one for the cell.
        wanted: rows whose chance is asked for instead of a draw; -1: draw one.
    """
    features = kernel.query_features(request.queries, request.score.scale)
    barred = _barred(request, rows, kernel)
    queries = torch.arange(len(features), device=features.device)[:, None].expand_as(wanted)
    height = len(sums.levels) - 1
    span = CELL * sums.arity**height
    everything = features @ sums.levels[height].T
    mass = _without(everything, sums.counts[height], barred, span)
    node, log_chance = _pick(mass, None, noise[..., height + 1], wanted // span, wanted >= 0)
    for level in range(height - 1, -1, -1):
        span //= sums.arity
        pairs, place = _pairs(queries, node, len(sums.levels[level + 1]))
        mass = _children(features, sums, level, pairs, barred, span)
        inside = wanted // span - node * sums.arity
        child, log_share = _pick(mass, place, noise[..., level + 1], inside, wanted >= 0)
        node, log_chance = node * sums.arity + child, log_chance + log_share
    pairs, place = _pairs(queries, node, len(sums.levels[0]))
    mass, order = _cell_masses(request, rows, kernel, pairs, barred)
    row, log_share = _pick(mass, order[place], noise[..., 0], wanted - node * CELL, wanted >= 0)
    slots = (node * CELL + row).clamp_(max=rows.num_rows - 1)
    return Drawn(slots, log_chance + log_share)


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
    mass = mass.index_put(place, -barred.mass, accumulate=True)
    left = counts.expand(mass.shape).index_put(
        place, -torch.ones_like(barred.mass), accumulate=True
    )
    return torch.maximum(mass, left * barred.smallest).masked_fill_(left < 0.5, 0.0)


class Pairs(NamedTuple):
    """Distinct (query, node) pairs, ordered by query and node."""

    queries: Int[Tensor, "P"]
    nodes: Int[Tensor, "P"]
    keys: Int[Tensor, "P"]
    num_nodes: int


def _pairs(
    queries: Int[Tensor, "B m"], nodes: Int[Tensor, "B m"], num_nodes: int
) -> tuple[Pairs, Int[Tensor, "B m"]]:
    """The distinct pairs, and which of them each draw is at."""
    keys, place = torch.unique(queries * num_nodes + nodes, return_inverse=True)
    return Pairs(keys // num_nodes, keys % num_nodes, keys, num_nodes), place


def _children(
    features: Float[Tensor, "B F"],
    sums: Sums,
    level: int,
    pairs: Pairs,
    barred: Barred,
    span: int,
) -> Float[Tensor, "P arity"]:
    """Masses of the children of each pair's node, less what is barred there."""
    blocks = sums.levels[level].view(-1, sums.arity, features.shape[1])
    mass, order = grouped_dots(
        features, lambda n: blocks.index_select(0, n), sums.arity, pairs.queries, pairs.nodes
    )
    mass = mass[order]
    left = sums.counts[level].view(-1, sums.arity)[pairs.nodes]
    pair, found = _find(pairs, barred, barred.slots // (span * sums.arity))
    place = pair, barred.slots[found] // span % sums.arity
    mass.index_put_(place, -barred.mass[found], accumulate=True)
    left.index_put_(place, -torch.ones_like(barred.mass[found]), accumulate=True)
    return torch.maximum(mass, left * barred.smallest).masked_fill_(left < 0.5, 0.0)


def _cell_masses(
    request: Request, rows: Rows, kernel: Kernel, pairs: Pairs, barred: Barred
) -> tuple[Float[Tensor, "P CELL"], Int[Tensor, "P"]]:
    """The exact kernel of the rows of each pair's cell, 0 where one may not be drawn.

    In an order of their own; where each pair is comes second.
    """
    inside = torch.arange(CELL, device=pairs.nodes.device)

    def cells(nodes: Tensor) -> Tensor:
        slots = (nodes[:, None] * CELL + inside).clamp_(max=rows.num_rows - 1)
        return rows.rows(slots.flatten()).view(*slots.shape, -1)

    dots, order = grouped_dots(request.queries, cells, CELL, pairs.queries, pairs.nodes)
    mass = kernel.kernel(dots, request.score.scale)
    last = (pairs.nodes == (rows.num_rows - 1) // CELL).nonzero().squeeze(1)
    mass[order[last], (rows.num_rows - 1) % CELL + 1 :] = 0.0
    valid = rows.valid
    if not valid.all():
        slots = pairs.nodes[:, None] * CELL + inside
        mass[order] *= valid[slots.clamp_(max=rows.num_rows - 1)]
    pair, found = _find(pairs, barred, barred.slots // CELL)
    mass[order[pair], barred.slots[found] % CELL] = 0.0
    return mass, order


def _find(
    pairs: Pairs, barred: Barred, nodes: Int[Tensor, "E"]
) -> tuple[Int[Tensor, "e"], Int[Tensor, "e"]]:
    """Where barred (query, node) pairs are among ``pairs``: their places, and which they are."""
    keys = barred.queries * pairs.num_nodes + nodes
    place = torch.searchsorted(pairs.keys, keys).clamp_(max=len(pairs.keys) - 1)
    found = (pairs.keys[place] == keys).nonzero().squeeze(1)
    return place[found], found


def _pick(
    mass: Float[Tensor, "P c"],
    place: Int[Tensor, "B m"] | None,
    uniforms: Float[Tensor, "B m"],
    wanted: Int[Tensor, "B m"],
    given: Bool[Tensor, "B m"],
) -> tuple[Int[Tensor, "B m"], Float64[Tensor, "B m"]]:
    """For each draw a column by its mass, or the wanted one; and the log of its share.

    Args:
        place: the row of masses that each draw is at; None: that of its query.
    """
    cdf = mass.cumsum(dim=1)
    if place is None:
        total = cdf[:, -1:].expand(uniforms.shape)
        found = torch.searchsorted(cdf, _below(uniforms, total), right=True)
        place = torch.arange(len(mass), device=mass.device)[:, None]
    else:
        total = cdf[:, -1][place]
        found = _search(cdf, place, _below(uniforms, total))
    column = torch.where(given, wanted, found).clamp_(0, mass.shape[1] - 1)
    share = mass[place, column].double() / total.double().clamp_min(torch.finfo(total.dtype).tiny)
    return column, share.log()


def _search(
    cdf: Float[Tensor, "P c"], place: Int[Tensor, "B m"], target: Float[Tensor, "B m"]
) -> Int[Tensor, "B m"]:
    """``searchsorted(cdf[place], target, right=True)`` without a copy of the rows."""
    width, flat, start = cdf.shape[1], cdf.flatten(), place * cdf.shape[1] - 1
    found = torch.zeros_like(place)
    step = 1 << (width.bit_length() - 1)
    while step:
        probe = found + step
        below = flat[(start + probe.clamp(max=width)).flatten()].view(place.shape) <= target
        found = torch.where(below & (probe <= width), probe, found)
        step //= 2
    return found


def _below(uniforms: Float[Tensor, "B m"], total: Float[Tensor, "B m"]) -> Float[Tensor, "B m"]:
    """``u * total``, less than the total even after rounding."""
    target = (uniforms * total).to(total.dtype)
    return torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
