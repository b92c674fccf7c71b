"""Hard negatives from stale rows: ANCE, and stochastic negative mining."""

import math
from collections.abc import Callable
from functools import partial

import torch

from negcache.errors import InputError
from negcache.functional.draws import draw_allowed, share, use_columns
from negcache.functional.views import within
from negcache.indexes import top_k
from negcache.protocols import Cache, Draw, Request, Rows, Score
from negcache.shapes import Bool, Float, Int, Tensor

Search = Callable[[Float[Tensor, "B D"], Score, int], Int[Tensor, "B k"]]
"""(queries, score, k) -> slots of each query's k best rows, best first; -1 where there is none."""

CHUNK = 1 << 14
"""Rows that exact search scores at a time."""


class StaleTopK:
    """Some of each query's best cached items, as hard negatives: searched, not estimated.

    As published the weights are 0, and the loss is a softmax over these negatives alone. With a
    ``tail`` the draw is unbiased for Z- however stale the rows and however poor the index: the best
    ``depth`` and all others are disjoint sets, and each draw stands for its share of its set. The
    queries are today's; only the rows are stale.

    ANCE (Xiong et al., ICLR 2021): ``depth=200`` over ``SnapshotCache(DenseCache(N, D, rho=1.0),
    every=k)``. Stochastic negative mining (Reddi et al., AISTATS 2019) in a pool of P items, with P
    rows held: over ``SnapshotCache(SubsetCache(N, D, P, rho=1.0), every=k)``.

    Args:
        cache: the rows that are searched.
        num_negatives: different items per query, drawn uniformly among its ``depth`` best.
        depth: None: ``num_negatives``, the hardest.
        tail: uniform draws per query from all other rows.
        shared: each query's negatives stand for every query of the batch, where they may.
        index: searches the rows; None: exact search. ``FaissIndex(cache, ...)`` is another.
    """

    has_density = False

    def __init__(
        self,
        cache: Cache,
        num_negatives: int,
        *,
        depth: int | None = None,
        tail: int = 0,
        shared: bool = False,
        index: Search | None = None,
    ) -> None:
        depth = num_negatives if depth is None else depth
        if not 1 <= num_negatives <= depth <= cache.num_rows or tail < 0:
            raise InputError(
                f"1 <= num_negatives <= depth <= the {cache.num_rows} cached rows, tail >= 0",
                f"num_negatives {num_negatives}, depth {depth}, tail {tail}",
                "search deeper or draw fewer; a pool needs as many rows as depth",
            )
        if shared and tail:
            raise InputError(
                "shared negatives without a tail", f"tail {tail}", "share them, or estimate Z-"
            )
        self.cache, self.num_negatives, self.depth = cache, num_negatives, depth
        self.tail, self.shared = tail, shared
        self.search: Search = partial(_exact, cache) if index is None else index

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        noise = request.uniforms(generator, self.depth + self.tail)
        inside = within(request, self.cache)
        best = best_allowed(inside, self.cache, self.search, self.depth)
        turn = noise[:, : self.depth].masked_fill(best < 0, 2.0).argsort(dim=1)
        slots = best.gather(1, turn[:, : self.num_negatives])
        weight = request.queries.new_zeros(slots.shape)
        if self.shared:
            ids = torch.unique(self.cache.ids(slots[slots >= 0]))
            return share(ids, torch.ones_like(ids), weight.new_zeros(len(ids)), request)
        if self.tail:
            others, left = draw_others(inside, self.cache, best, noise[:, self.depth :])
            found = (best >= 0).sum(dim=1, keepdim=True).to(weight)
            head = weight + (found / (slots >= 0).sum(dim=1, keepdim=True)).log()
            rest = (left[:, None].to(weight) / self.tail).log().expand(others.shape)
            weight = torch.cat([head, rest], dim=1) - math.log(self.cache.coverage)
            slots = torch.cat([slots, others], dim=1)
        weight = weight.masked_fill(slots < 0, -torch.inf)
        return use_columns(self.cache.ids(slots.clamp_min(0)), weight)


@torch.no_grad()
def best_allowed(request: Request, rows: Rows, search: Search, depth: int) -> Int[Tensor, "B k"]:
    """Slots of the ``depth`` best rows that may stand for each query; -1 where none is left.

    So many more are searched that no known positive, or row never written, takes another's place.
    """
    spare = int(request.exclude.counts.max()) + int((~rows.valid).sum())
    slots = search(request.queries, request.score, min(depth + spare, rows.num_rows))
    barred = _barred(request, slots) | (slots < 0) | ~rows.valid[slots.clamp_min(0)]
    order = barred.long().argsort(dim=1, stable=True)[:, :depth]
    return slots.masked_fill(barred, -1).gather(1, order)


def draw_others(
    request: Request, rows: Rows, best: Int[Tensor, "B k"], noise: Float[Tensor, "B m"]
) -> tuple[Int[Tensor, "B m"], Int[Tensor, "B"]]:
    """Uniform draws from all rows but the ``best``, -1 for no row; and how many these are."""
    queries, places = (best >= 0).nonzero(as_tuple=True)
    exclude = request.exclude.and_also(queries, best[queries, places])
    left = rows.num_rows - exclude.counts
    slots = draw_allowed(exclude, rows.num_rows, noise)
    return slots.masked_fill((left == 0)[:, None] | ~rows.valid[slots], -1), left


def _barred(request: Request, slots: Int[Tensor, "B k"]) -> Bool[Tensor, "B k"]:
    queries = torch.arange(len(slots), device=slots.device)[:, None].expand_as(slots)
    return request.exclude.contains(queries, slots.clamp_min(0))


def _exact(rows: Rows, queries: Float[Tensor, "B D"], score: Score, k: int) -> Int[Tensor, "B k"]:
    return top_k(queries, rows.chunks(CHUNK), score, k)[1]
