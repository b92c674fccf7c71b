"""Multi-level rejection: exact draws from the softmax of scores, down a tree of nested balls.

A subtree stands at the head of a stack of mass ``n exp(s + slope * bound)``, which is at least the
mass of its head and of its children's stacks. So a draw goes down in proportion to these, and where
it falls between them it begins again. Source: Monath et al., AISTATS 2023, Algorithm 1, corrected.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from negcache.exclusion import Exclusion
from negcache.shapes import Bool, Float, Float64, Int, Tensor

LogitsOf = Callable[[Int[Tensor, "n"], Int[Tensor, "n"]], Float[Tensor, "n"]]
"""(queries, items) -> the logit of each pair."""


class TreeArrays(NamedTuple):
    """A tree whose node i is item i.

    Args:
        offsets: [N + 1]; the children of i are ``children[offsets[i]:offsets[i + 1]]``.
        children: every item but the root, once.
        sizes: items at or below each node.
        bounds: UB: at least ``max(dist(child) + UB(child))`` over the children, 0 at leaves. The
            distance of the farthest item below is not enough.
    """

    offsets: Int[Tensor, "_"]
    children: Int[Tensor, "_"]
    sizes: Int[Tensor, "N"]
    bounds: Float[Tensor, "N"]


class Frontier(NamedTuple):
    """Where draws begin: nodes that share all items among them, as whole subtrees or alone."""

    nodes: Int[Tensor, "F"]
    whole: Bool[Tensor, "F"]


class TreeDraws(NamedTuple):
    """What was drawn.

    Args:
        items: -1 where a draw was not through after so many rounds, or may draw nothing.
        rounds: how many there were.
        restarts: how often a draw began again, over all draws.
    """

    items: Int[Tensor, "B m"]
    rounds: int
    restarts: int


class _Stacks(NamedTuple):
    """Stacks of some (query, node) pairs: the head's own mass, then the children's stacks.

    Args:
        items: head and children of each pair, one pair after the other.
        pairs: the pair that each of them belongs to.
        starts: [n + 1] where the items of each pair begin.
        mass: of each, as a share of its pair's stack.
    """

    items: Int[Tensor, "k"]
    pairs: Int[Tensor, "k"]
    starts: Int[Tensor, "_"]
    mass: Float64[Tensor, "k"]


@torch.no_grad()
def draw_from_tree(
    tree: TreeArrays,
    frontier: Frontier,
    logits: LogitsOf,
    slope: Float[Tensor, "B"],
    num_draws: int,
    generator: torch.Generator,
    *,
    exclude: Exclusion,
    rounds: int = 1000,
) -> TreeDraws:
    """Independent draws for each query from the softmax of its logits over what it may draw.

    Args:
        logits: asked for the frontier of every query once, and for children of visited nodes.
        slope: how much a query's logits may change over a distance of 1: beta ||h||.
        exclude: items of the tree; a draw of one begins again.
        rounds: moves of every draw, all at once: one level down, or to the frontier again. Where
            balls are wide nearly every try is given up: expect ``1 / accepted`` of ``tree_law``.
    """
    mass = frontier_log_mass(tree, frontier, logits, slope)
    cdf = mass.softmax(dim=1).cumsum(dim=1)
    rows = torch.arange(len(slope), device=slope.device).repeat_interleave(num_draws)
    at, done = torch.full_like(rows, -1), torch.full_like(rows, -1)
    able = (exclude.counts < _reached(tree, frontier))[rows]
    restarts, used = -int(able.sum()), 0
    while used < rounds and bool((wanting := able & (done < 0)).any()):
        begins = wanting & (at < 0)
        restarts += int(begins.sum())
        noise = torch.rand(2, len(rows), generator=generator, dtype=torch.float64).to(rows.device)
        place = torch.searchsorted(cdf, noise[0].view(len(slope), -1), right=True).flatten()
        place.clamp_(max=cdf.shape[1] - 1)
        at = frontier.nodes[place].where(begins, at)
        done = at.where(begins & ~frontier.whole[place], done)
        going = (wanting & (done < 0)).nonzero().squeeze(1)
        fell = _fall(
            tree, logits, slope, rows[going] * len(tree.sizes) + at[going], noise[1, going]
        )
        done[going] = fell.where(fell == at[going], -1)
        at[going] = fell
        refused = (done >= 0) & exclude.contains(rows, done.clamp_min(0))
        at, done = at.masked_fill(refused, -1), done.masked_fill(refused, -1)
        used += 1
    return TreeDraws(done.view(len(slope), num_draws), used, max(restarts, 0))


@torch.no_grad()
def tree_law(
    tree: TreeArrays, frontier: Frontier, logits: LogitsOf, slope: Float[Tensor, "B"]
) -> tuple[Float64[Tensor, "B N"], Float64[Tensor, "B"]]:
    """The law of ``draw_from_tree`` by enumeration, and the chance that a try is accepted.

    Walks down all pairs of a query and a node, so for small trees only.
    """
    num_items, num_queries = len(tree.sizes), len(slope)
    chance = frontier_log_mass(tree, frontier, logits, slope).softmax(dim=1)
    law = chance.new_zeros(num_queries, num_items)
    at = torch.zeros_like(law)
    law[:, frontier.nodes] = chance.masked_fill(frontier.whole, 0.0)
    at[:, frontier.nodes] = chance.masked_fill(~frontier.whole, 0.0)
    law, at = law.flatten(), at.flatten()
    while len(keys := at.nonzero().squeeze(1)):
        stacks = _stacks(tree, logits, slope, keys)
        ends = stacks.mass.cumsum(0)
        base = torch.cat([ends.new_zeros(1), ends])[stacks.starts[:-1]][stacks.pairs]
        left = (1.0 - (ends - stacks.mass - base)).clamp_min(0.0)
        share = torch.minimum(stacks.mass, left)  # what does not fit into the stack is cut off
        gained = at[keys][stacks.pairs] * share
        own = torch.zeros_like(stacks.pairs, dtype=torch.bool)
        own[stacks.starts[:-1]] = True
        where = keys[stacks.pairs] // num_items * num_items + stacks.items
        law.index_add_(0, where[own], gained[own])
        at = torch.zeros_like(at).index_add_(0, where[~own], gained[~own])
    law = law.view(num_queries, num_items)
    accepted = law.sum(dim=1)
    return law / accepted[:, None], accepted


def frontier_log_mass(
    tree: TreeArrays, frontier: Frontier, logits: LogitsOf, slope: Float[Tensor, "B"]
) -> Float64[Tensor, "B F"]:
    """log of the stack of every subtree of the frontier, and of the items that are alone."""
    queries = torch.arange(len(slope), device=slope.device).repeat_interleave(len(frontier.nodes))
    nodes = frontier.nodes.repeat(len(slope))
    scores = logits(queries, nodes).double().view(len(slope), -1)
    raised = _raised(tree, slope, queries, nodes).view_as(scores)
    return scores + raised.masked_fill(~frontier.whole, 0.0)


def _reached(tree: TreeArrays, frontier: Frontier) -> int:
    """How many items draws may end at."""
    return int(tree.sizes[frontier.nodes].where(frontier.whole, 1).sum())


def _raised(tree: TreeArrays, slope: Tensor, queries: Tensor, nodes: Tensor) -> Tensor:
    """log of a stack over the mass of its head."""
    return tree.sizes[nodes].double().log() + slope[queries].double() * tree.bounds[nodes].double()


def _stacks(tree: TreeArrays, logits: LogitsOf, slope: Tensor, keys: Tensor) -> _Stacks:
    """The stacks of some pairs; ``keys`` are query * N + node."""
    queries, nodes = keys // len(tree.sizes), keys % len(tree.sizes)
    counts = tree.offsets[nodes + 1] - tree.offsets[nodes] + 1
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    pairs = torch.repeat_interleave(counts)
    rank = torch.arange(len(pairs), device=keys.device) - starts[pairs]
    if len(tree.children):
        listed = (tree.offsets[nodes][pairs] + rank - 1).clamp_(0, len(tree.children) - 1)
        items = nodes[pairs].where(rank == 0, tree.children[listed])
    else:
        items = nodes[pairs]
    scores = logits(queries[pairs], items).double()
    up = _raised(tree, slope, queries[pairs], items).masked_fill(rank == 0, 0.0)
    whole = scores[starts[:-1]] + _raised(tree, slope, queries, nodes)
    return _Stacks(items, pairs, starts, (scores + up - whole[pairs]).exp())


def _fall(
    tree: TreeArrays, logits: LogitsOf, slope: Tensor, keys: Tensor, noise: Float64[Tensor, "n"]
) -> Int[Tensor, "n"]:
    """Where each draw falls to: the head (it is drawn), a child, or -1: it begins again.

    Draws of one query at one node share their stack.
    """
    distinct, mine = torch.unique(keys, return_inverse=True)
    stacks = _stacks(tree, logits, slope, distinct)
    ends = stacks.mass.cumsum(0)
    base = torch.cat([ends.new_zeros(1), ends])[stacks.starts[mine]]
    place = torch.searchsorted(ends, base + noise, right=True)
    inside = place < stacks.starts[mine + 1]
    return stacks.items[place.clamp(max=len(stacks.items) - 1)].where(inside, -1)
