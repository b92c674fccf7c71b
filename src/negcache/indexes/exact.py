"""Exact search by brute force, a chunk of items at a time: the yardstick of every index."""

from collections.abc import Iterable
from typing import TypeAlias

import torch

from negcache.errors import InputError
from negcache.score import Score
from negcache.shapes import Float, Int, Tensor


def top_k(
    queries: Float[Tensor, "B D"],
    chunks: Iterable[tuple[int, Float[Tensor, "_ D"]]],
    score: Score,
    k: int,
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """The k best items of each query; never holds a [B, N] tensor.

    Equals ``score(queries, items).sort(descending=True, stable=True)`` cut after k columns:
    equal scores are ordered by the smaller id.

    Args:
        queries: embedded queries.
        chunks: consecutive blocks of embedded items, each with the id of its first row, ascending.
        score: (queries, items) -> logits.
        k: items per query; at most the number of items.
    """
    if k < 1:
        raise InputError("k >= 1 items per query", f"k = {k}", "ask for at least one item")
    best = nothing_yet(queries)
    for chunk in chunks:
        best = better(best, queries, chunk, score, k)
    scores, ids = best
    if ids.shape[1] < k:
        raise InputError(
            f"k of at most the {ids.shape[1]} items searched", f"k = {k}", "ask for fewer items"
        )
    return scores, ids


Best: TypeAlias = tuple[Float[Tensor, "B _"], Int[Tensor, "B _"]]
"""Scores, falling, and ids of the best items that were seen so far."""


def nothing_yet(queries: Float[Tensor, "B D"]) -> Best:
    """The best of no items."""
    none = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    return queries.new_empty(none.shape), none


def better(
    best: Best,
    queries: Float[Tensor, "B D"],
    chunk: tuple[int, Float[Tensor, "_ D"]],
    score: Score,
    k: int,
) -> Best:
    """The best k after one more block of items, whose ids are above those before."""
    first, rows = chunk
    return better_of(best, score(queries, rows), first, k)


def better_of(best: Best, scores: Float[Tensor, "B c"], first: int, k: int) -> Best:
    """As ``better``, of items that are scored; the first of them is ``first``."""
    fresh, places = _best(scores, k)
    scores = torch.cat([best[0], fresh.to(best[0].dtype)], dim=1)
    ids = torch.cat([best[1], places + first], dim=1)
    scores, order = _best(scores, k)  # kept ids come first, so ties stay with the smaller id
    return scores, ids.gather(1, order)


def _best(scores: Float[Tensor, "B c"], k: int) -> tuple[Float[Tensor, "B _"], Int[Tensor, "B _"]]:
    """The k largest of each row, largest first, ties by the smaller column."""
    k = min(k, scores.shape[1])
    values, places = scores.topk(k, dim=1)
    cut = values[:, -1:]
    torn = ((scores == cut).sum(1) > (values == cut).sum(1)).nonzero().squeeze(1)
    if len(torn):  # a tie runs across the cut, where topk may keep any of the equals
        places[torn] = scores[torn].sort(dim=1, descending=True, stable=True).indices[:, :k]
    places = places.sort(dim=1).values
    order = scores.gather(1, places).sort(dim=1, descending=True, stable=True)
    return order.values, places.gather(1, order.indices)
