"""Recommendation: search all items, leave out what the user already took, measure the rest."""

import torch

from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.indexes import top_k
from negcache.protocols import Score
from negcache.run.evaluation.encode import Progress, encode_all
from negcache.run.evaluation.evaluate import Evaluation, Judged, Side, chunks
from negcache.run.evaluation.metrics import DEPTH, MEASURES, Ranking, measure
from negcache.shapes import Float, Int, Tensor

BLOCK = 256
"""Queries searched at a time; one who has seen much makes the search of its block deeper."""


def evaluate_unseen(
    queries: Side,
    items: Side,
    score: Score,
    judged: Judged,
    seen: Exclusion,
    *,
    progress: Progress = iter,
) -> Evaluation:
    """Rank the items that each query has not seen, exactly, and measure the rankings.

    Args:
        queries: the query side; only queries with a relevant item are encoded.
        items: the item side; encoded whole, once.
        score: the one score of training.
        judged: the split; ``r10`` of a query with one relevant item is its hit rate at 10.
        seen: what may not be recommended to each query, one row for each query of its side.
    """
    asked = judged.queries[judged.grades > 0].unique()
    if not len(asked):
        raise InputError("a split with relevant items", "none", "name another split")
    known = torch.isin(judged.queries, asked)
    rows = encode_all(items.tower, items.features, score, progress=progress)
    found = encode_all(queries.tower, queries.features, score, ids=asked)
    scores, ids = top_k_unseen(found, rows, score, (seen, asked), min(DEPTH, len(rows)))
    names = [items.names.ids(row) for row in ids]
    ranking = Ranking(queries.names.ids(asked), names, scores)
    per_query = measure(
        ranking,
        queries.names.ids(judged.queries[known]),
        items.names.ids(judged.items[known]),
        judged.grades[known],
    )
    means = {name: sum(per_query[name].values()) / len(asked) for name in MEASURES}
    return Evaluation(means, per_query, ranking)


@torch.no_grad()
def top_k_unseen(
    queries: Float[Tensor, "Q D"],
    items: Float[Tensor, "N D"],
    score: Score,
    seen: tuple[Exclusion, Int[Tensor, "Q"]],
    k: int,
) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    """The k best items that each query has not seen; exact, ties by the smaller id.

    Items seen follow the others, with score -inf, where fewer than k are left.

    Args:
        queries: embedded queries.
        items: embedded items.
        score: (queries, items) -> logits.
        seen: a table of seen items, and the row of each query in it.
        k: items per query; at most the number of items.
    """
    table, row_of = seen
    blocks = []
    order = table.counts[row_of].argsort(stable=True)  # alike beside alike: shallow blocks first
    for places in order.split(BLOCK):
        rows = row_of[places]
        depth = min(k + int(table.counts[rows].max()), len(items))
        scores, ids = top_k(queries[places], chunks(items), score, depth)
        barred = table.contains(rows[:, None].expand_as(ids).contiguous(), ids)
        best = barred.int().argsort(dim=1, stable=True)[:, :k]
        blocks.append((scores.masked_fill(barred, -torch.inf).gather(1, best), ids.gather(1, best)))
    back = order.argsort()
    scores, ids = (torch.cat(part)[back] for part in zip(*blocks, strict=True))
    return scores.cpu(), ids.cpu()
