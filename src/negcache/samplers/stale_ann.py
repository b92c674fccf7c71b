"""Hard negatives from stale rows: ANCE, and stochastic negative mining."""

from collections.abc import Callable
from functools import partial

import torch

from negcache.draws import from_weights, plain
from negcache.errors import InputError
from negcache.indexes import top_k
from negcache.interfaces import Store
from negcache.messages import Draw, Request
from negcache.ops.scored_rows import ScoredRows
from negcache.ops.shards import Masses, best_of_all
from negcache.ops.uniform import draw_allowed
from negcache.pooled import share
from negcache.score import Score
from negcache.shapes import Float, Int, Tensor
from negcache.stores.reading import project_items, scored_rows

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

    ANCE (Xiong et al., ICLR 2021): ``depth=200`` over ``DenseCache(N, D, refresh=Snapshot(k))``.
    Stochastic negative mining (Reddi et al., AISTATS 2019) in a pool of P items, with P rows held:
    over ``SubsetCache(N, D, P, refresh=Snapshot(k))``.

    Args:
        store: the rows that are searched.
        num_negatives: different items per query, drawn uniformly among its ``depth`` best.
        depth: None: ``num_negatives``, the hardest.
        tail: uniform draws per query from all other rows.
        shared: each query's negatives stand for every query of the batch, where they may.
        index: searches the rows; None: exact search. ``FaissIndex(store, ...)`` is another.
    """

    has_density = False

    def __init__(
        self,
        store: Store,
        num_negatives: int,
        *,
        depth: int | None = None,
        tail: int = 0,
        shared: bool = False,
        index: Search | None = None,
    ) -> None:
        depth = num_negatives if depth is None else depth
        if not 1 <= num_negatives <= depth <= store.shard.total or tail < 0:
            raise InputError(
                f"1 <= num_negatives <= depth <= the {store.shard.total} cached rows, tail >= 0",
                f"num_negatives {num_negatives}, depth {depth}, tail {tail}",
                "search deeper or draw fewer; a pool needs as many rows as depth",
            )
        if shared and tail:
            raise InputError(
                "shared negatives without a tail", f"tail {tail}", "share them, or estimate Z-"
            )
        self.store, self.num_negatives, self.depth = store, num_negatives, depth
        self.tail, self.shared = tail, shared
        self.search: Search = partial(_exact, store) if index is None else index

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        noise = request.uniforms(generator, self.depth + self.tail)
        rows, dtype = scored_rows(request, self.store), request.queries.dtype
        best = self._best(rows)
        turn = noise[:, : self.depth].masked_fill(best < 0, 2.0).argsort(dim=1)
        ids = best.gather(1, turn[:, : self.num_negatives])
        if self.shared:
            ids = torch.unique(ids[ids >= 0])
            return share(ids, torch.ones_like(ids), ids.new_zeros(len(ids), dtype=dtype), request)
        if not self.tail:
            return plain(self._some(ids), ids >= 0, dtype=dtype)
        others, left = draw_others(self.store, rows, best, noise[:, self.depth :])
        found = (best >= 0).sum(dim=1, keepdim=True).to(dtype)
        head = (found / (ids >= 0).sum(dim=1, keepdim=True)).log().expand(ids.shape)
        rest = (left[:, None].to(dtype) / self.tail).log().expand(others.shape)
        ids, weight = torch.cat([ids, others], dim=1), torch.cat([head, rest], dim=1)
        weight = weight.masked_fill(ids < 0, -torch.inf)
        return from_weights(self.store, self._some(ids), weight, dtype=dtype)

    def _some(self, ids: Int[Tensor, "B m"]) -> Int[Tensor, "B m"]:
        """With an item, that of the first row, where there is none."""
        mesh = self.store.shard.mesh
        first = self.store.ids(torch.zeros_like(ids[:1, :1]))
        first = mesh.from_owners(first, torch.full_like(first, mesh.rank == 0, dtype=torch.bool))
        return ids.where(ids >= 0, first)

    def _best(self, rows: ScoredRows) -> Int[Tensor, "B k"]:
        """The ``depth`` best items that may stand for each query; -1 where none is left."""
        slots, mesh = best_allowed(rows, self.search, self.depth), self.store.shard.mesh
        ids = self.store.ids(slots.clamp_min(0)).masked_fill(slots < 0, -1)
        if mesh.size == 1:
            return ids
        table = rows.rows(slots.clamp_min(0).flatten()).view(*slots.shape, -1)
        scores = rows.score.paired(rows.queries, table.to(rows.queries.dtype)).detach()
        ids, scores = best_of_all(mesh, ids, scores.masked_fill(slots < 0, -torch.inf), self.depth)
        return ids.masked_fill(scores == -torch.inf, -1)


@torch.no_grad()
def best_allowed(rows: ScoredRows, search: Search, depth: int) -> Int[Tensor, "B k"]:
    """Slots of the ``depth`` best rows that may stand for each query; -1 where none is left.

    So many more are searched that no known positive, or row never written, takes another's place.
    """
    spare = int(rows.exclude.counts.max()) + int((~rows.valid).sum())
    slots = search(rows.queries, rows.score, min(depth + spare, rows.num_rows))
    some = slots.clamp_min(0)
    masked = rows.exclude.hits(some) | (slots < 0) | ~rows.valid[some]
    order = masked.long().argsort(dim=1, stable=True)[:, :depth]
    return slots.masked_fill(masked, -1).gather(1, order)


def draw_others(
    store: Store, rows: ScoredRows, best: Int[Tensor, "B k"], noise: Float[Tensor, "B m"]
) -> tuple[Int[Tensor, "B m"], Int[Tensor, "B"]]:
    """Uniform draws from the items of all rows but the ``best``, -1 for no row; how many these are.

    Args:
        best: items, -1 for none.
    """
    slots = store.slots(best.clamp_min(0)).masked_fill(best < 0, -1)
    exclude, mesh = rows.without(slots).exclude, store.shard.mesh
    left = rows.num_rows - exclude.counts
    turns = Masses(mesh, left.double().log()).turns(noise[..., None])
    slots = draw_allowed(exclude, rows.num_rows, turns.uniforms.squeeze(-1))
    ids = store.ids(slots).masked_fill((left == 0)[:, None] | ~rows.valid[slots], -1)
    return mesh.from_owners(ids, turns.here), mesh.total(left)


def _exact(store: Store, queries: Float[Tensor, "B K"], score: Score, k: int) -> Int[Tensor, "B k"]:
    chunks = ((first, project_items(store, block)) for first, block in store.chunks(CHUNK))
    return top_k(queries, chunks, score, k)[1]
