"""Exact search for many queries: over all items, or over those a query has not seen."""

from collections.abc import Iterable

import torch

from negcache.exclusion import Exclusion
from negcache.indexes import better, better_of, nothing_yet, top_k
from negcache.score import Score
from negcache.shapes import Float, Int, Tensor

BLOCK = 1024
"""Queries searched at a time, against 8,192 items at a time."""


def chunks(
    rows: Float[Tensor, "N D"], size: int = 8192, first: int = 0
) -> Iterable[tuple[int, Tensor]]:
    """Blocks of rows, each with the number of its first row; that of them all is ``first``."""
    return ((first + start, rows[start : start + size]) for start in range(0, len(rows), size))


@torch.no_grad()
def top_k_of_all(
    queries: Float[Tensor, "Q D"],
    items: Float[Tensor, "N D"],
    score: Score,
    k: int,
    first: int = 0,
) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    """The k best items of each query, exact, best first: their logits and ids.

    Args:
        first: id of the first of these items.
    """
    parts = queries.split(BLOCK)
    blocks = [top_k(block, chunks(items, first=first), score, k) for block in parts]
    scores, ids = (torch.cat(part) for part in zip(*blocks, strict=True))
    return scores.cpu(), ids.cpu()


@torch.no_grad()
def top_k_arriving(
    queries: Float[Tensor, "Q D"],
    blocks: Iterable[tuple[Int[Tensor, "c"], Float[Tensor, "c D"]]],
    score: Score,
    k: int,
) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    """As `top_k_of_all`, of items that are embedded as the search goes on: none is kept.

    Args:
        queries: embedded queries.
        blocks: ids, consecutive and ascending, and the items embedded.
        score: (queries, items) -> logits.
        k: items per query; at most the number of items.
    """
    parts = queries.split(BLOCK)
    best = [nothing_yet(part) for part in parts]
    for ids, rows in blocks:
        some = int(ids[0]), rows
        best = [better(one, part, some, score, k) for one, part in zip(best, parts, strict=True)]
    scores, found = (torch.cat(part) for part in zip(*best, strict=True))
    return scores.cpu(), found.cpu()


@torch.no_grad()
def top_k_unseen_arriving(
    queries: Float[Tensor, "Q D"],
    blocks: Iterable[tuple[Int[Tensor, "c"], Float[Tensor, "c D"]]],
    score: Score,
    seen: Exclusion,
    k: int,
    items: range,
) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    """As `top_k_arriving`, of the items that each query has not seen; ties by the smaller id.

    Items seen follow the others, the best first, with score -inf, where fewer than k are left.

    Args:
        queries: embedded queries.
        blocks: ids, consecutive and ascending, and the items embedded.
        score: (queries, items) -> logits.
        seen: items that each query has seen; one row for each of them.
        k: items per query; at most the number of items.
        items: ids of all that arrive.
    """
    starts = range(0, len(queries), BLOCK)
    parts = zip(queries.split(BLOCK), starts, strict=True)
    searches = [_Unseen(each, seen.slice(at, at + len(each)), k, items) for each, at in parts]
    for ids, rows in blocks:
        for one in searches:
            one.look_at(int(ids[0]), score(one.queries, rows))
    scores, found = (torch.cat(part) for part in zip(*(s.found() for s in searches), strict=True))
    return scores.cpu(), found.cpu()


class _Unseen:
    """The best of some queries as items arrive, and apart from them the best of those seen.

    Args:
        queries: embedded.
        seen: one row for each query.
        k: items per query.
        items: ids of all that arrive.
    """

    def __init__(self, queries: Tensor, seen: Exclusion, k: int, items: range) -> None:
        ids, rows = (each.to(queries.device) for each in seen.by_id)
        here = slice(*torch.searchsorted(ids, ids.new_tensor([items.start, items.stop])).tolist())
        self.queries, self.k, self.ids, self.rows = queries, k, ids[here], rows[here]
        self.left = len(items) - torch.bincount(self.rows, minlength=len(queries))
        self.fills = bool((self.left < k).any())  # some have fewer than k that they have not seen
        self.unseen, self.seen = nothing_yet(queries), nothing_yet(queries)

    def look_at(self, first: int, scores: Float[Tensor, "b c"]) -> None:
        """The next items, scored for these queries."""
        ends = self.ids.new_tensor([first, first + scores.shape[1]])
        here = slice(*torch.searchsorted(self.ids, ends).tolist())
        where, none = (self.rows[here], self.ids[here] - first), scores.new_tensor(-torch.inf)
        if self.fills:
            known = torch.full_like(scores, -torch.inf).index_put_(where, scores[where])
            self.seen = better_of(self.seen, known, first, self.k)
        self.unseen = better_of(self.unseen, scores.index_put(where, none), first, self.k)

    def found(self) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b k"]]:
        """Scores and ids: the unseen, then as many of the seen as are missing."""
        if not self.fills:
            return self.unseen
        scores, ids = (torch.cat(pair, dim=1) for pair in zip(self.unseen, self.seen, strict=True))
        places = torch.arange(scores.shape[1], device=ids.device)
        is_real = places < self.left[:, None]
        is_real[:, self.k :] = True
        order = (~is_real).int().argsort(dim=1, stable=True)[:, : self.k]
        scores[:, self.k :] = -torch.inf
        return scores.gather(1, order), ids.gather(1, order)
