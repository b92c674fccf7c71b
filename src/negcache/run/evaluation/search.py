"""Exact search for many queries: over all items, or over those a query has not seen."""

from collections.abc import Iterable

import torch

from negcache.exclusion import Exclusion
from negcache.indexes import better, nothing_yet, top_k
from negcache.score import Score
from negcache.shapes import Float, Int, Tensor

BLOCK = 1024
"""Queries searched at a time, against 8,192 items at a time."""
UNSEEN_BLOCK = 256
"""The same where items are left out; one who has seen much makes the search of its block deeper."""


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
def top_k_unseen(
    queries: Float[Tensor, "Q D"],
    items: Float[Tensor, "N D"],
    score: Score,
    seen: tuple[Exclusion, Int[Tensor, "Q"]],
    k: int,
    first: int = 0,
) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    """The k best items that each query has not seen; exact, ties by the smaller id.

    Items seen follow the others, with score -inf, where fewer than k are left.

    Args:
        queries: embedded queries.
        items: embedded items.
        score: (queries, items) -> logits.
        seen: a table of seen items, and the row of each query in it.
        k: items per query; at most the number of items.
        first: id of the first of these items.
    """
    table, row_of = seen
    blocks = []
    order = table.counts[row_of].argsort(stable=True)  # alike beside alike: shallow blocks first
    for places in order.split(UNSEEN_BLOCK):
        rows = row_of[places]
        depth = min(k + int(table.counts[rows].max()), len(items))
        scores, ids = top_k(queries[places], chunks(items, first=first), score, depth)
        excluded = table.contains(rows[:, None].expand_as(ids).contiguous(), ids)
        best = excluded.int().argsort(dim=1, stable=True)[:, :k]
        blocks.append(
            (scores.masked_fill(excluded, -torch.inf).gather(1, best), ids.gather(1, best))
        )
    back = order.argsort()
    scores, ids = (torch.cat(part)[back] for part in zip(*blocks, strict=True))
    return scores.cpu(), ids.cpu()
