"""Every query of a split against the whole corpus, by exact search."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from negcache.errors import InputError
from negcache.indexes import top_k
from negcache.protocols import Corpus, Score
from negcache.run.evaluation.encode import Progress, encode_all
from negcache.run.evaluation.metrics import DEPTH, MEASURES, Ranking, measure
from negcache.shapes import Float, Int, Tensor


@runtime_checkable
class Names(Protocol):
    """The dataset's own names of rows."""

    def ids(self, rows: Int[Tensor, "M"]) -> list[str]: ...


@runtime_checkable
class Judged(Protocol):
    """Judgements: (query, item, grade) triples; no grade: not judged; 0: not relevant."""

    @property
    def queries(self) -> Int[Tensor, "P"]: ...
    @property
    def items(self) -> Int[Tensor, "P"]: ...
    @property
    def grades(self) -> Int[Tensor, "P"]: ...


@dataclass(frozen=True)
class Side:
    """One side of a retriever: its tower, what the tower reads, and how the rows are called."""

    tower: nn.Module
    features: Corpus
    names: Names


@dataclass(frozen=True)
class Evaluation:
    """The means of all measures, the values of every query, and what was found."""

    means: dict[str, float]
    per_query: dict[str, dict[str, float]]
    ranking: Ranking


def evaluate(
    queries: Side,
    items: Side,
    score: Score,
    judged: Judged,
    *,
    progress: Progress = iter,
) -> Evaluation:
    """Search all queries that have a relevant item, exactly, and measure the rankings.

    Args:
        queries: the query side; only those queries are encoded.
        items: the item side; encoded whole, once.
        score: the one score of training.
        judged: the split.
    """
    asked = judged.queries[judged.grades > 0].unique()
    if not len(asked):
        raise InputError("a split with relevant items", "none", "add qrels for this split")
    known = torch.isin(judged.queries, asked)
    rows = encode_all(items.tower, items.features, score, progress=progress)
    found = encode_all(queries.tower, queries.features, score, ids=asked)
    ranking = rank(found, rows, score, queries.names.ids(asked), items.names)
    per_query = measure(
        ranking,
        queries.names.ids(judged.queries[known]),
        items.names.ids(judged.items[known]),
        judged.grades[known],
    )
    means = {name: sum(per_query[name].values()) / len(asked) for name in MEASURES}
    return Evaluation(means, per_query, ranking)


@torch.no_grad()
def rank(
    queries: Float[Tensor, "Q D"],
    items: Float[Tensor, "N D"],
    score: Score,
    query_names: list[str],
    item_names: Names,
) -> Ranking:
    """The best items of each query, 1,024 queries against 8,192 items at a time."""
    k = min(DEPTH, len(items))
    blocks = [top_k(block, chunks(items), score, k) for block in queries.split(1024)]
    scores, ids = (torch.cat(part).cpu() for part in zip(*blocks, strict=True))
    distinct, place = ids.unique(return_inverse=True)
    names = item_names.ids(distinct)
    return Ranking(query_names, [[names[i] for i in row] for row in place.tolist()], scores)


def chunks(rows: Float[Tensor, "N D"], size: int = 8192) -> Iterable[tuple[int, Tensor]]:
    """Blocks of rows, each with the number of its first row."""
    return ((first, rows[first : first + size]) for first in range(0, len(rows), size))
