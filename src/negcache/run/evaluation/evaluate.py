"""Every query of a split against the whole corpus, by exact search."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from negcache.distributed import ALONE, Mesh
from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.interfaces import Corpus
from negcache.ops.shards import best_of_all
from negcache.run.evaluation.encode import Progress, encode_all, encoded
from negcache.run.evaluation.metrics import DEPTH, MEASURES, Ranking, measure
from negcache.run.evaluation.search import top_k_arriving, top_k_unseen_arriving
from negcache.score import Score
from negcache.shapes import Int, Tensor


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
    seen: Exclusion | None = None,
    progress: Progress = iter,
    mesh: Mesh = ALONE,
) -> Evaluation:
    """Search all queries that have a relevant item, exactly, and measure the rankings.

    Of several processes each encodes and searches its share of the items; all have the result, and
    it is that of one.

    Args:
        queries: the query side; only those queries are encoded.
        items: the item side; encoded once, block by block: no more is held.
        score: the one score of training.
        judged: the split; ``r10`` of a query with one relevant item is its hit rate at 10.
        seen: what may not be recommended to each query, one row for each query of its side; such
            items rank behind all others. None: any item may.
        mesh: the processes that evaluate together.
    """
    asked = judged.queries[judged.grades > 0].unique()
    if not len(asked):
        remedy = "add qrels/SPLIT.tsv for this split, or name another"
        raise InputError("a split with relevant items", "none", remedy)
    share, k = mesh.part(len(items.features)), min(DEPTH, len(items.features))
    here = range(share.start, share.stop)
    found = encode_all(queries.tower, queries.features, score, ids=asked)
    some = min(k, len(here))
    blocks = encoded(items.tower, items.features, score, ids=here, progress=progress)
    if seen is None:
        best = top_k_arriving(found, blocks, score, some)
    else:
        best = top_k_unseen_arriving(found, blocks, score, seen.of(asked), some, here)
    ids, scores = best_of_all(mesh, best[1], best[0], k)
    ranking = Ranking(queries.names.ids(asked), _named(ids, items.names), scores)
    return evaluation_of(ranking, judged, asked, queries.names, items.names)


def evaluation_of(
    ranking: Ranking, judged: Judged, asked: Int[Tensor, "Q"], queries: Names, items: Names
) -> Evaluation:
    """The measures of a ranking of the queries that were asked."""
    known = torch.isin(judged.queries, asked)
    per_query = measure(
        ranking,
        queries.ids(judged.queries[known]),
        items.ids(judged.items[known]),
        judged.grades[known],
    )
    means = {name: sum(per_query[name].values()) / len(asked) for name in MEASURES}
    return Evaluation(means, per_query, ranking)


def _named(ids: Int[Tensor, "Q k"], names: Names) -> list[list[str]]:
    """Names of a table of items; each item is looked up once."""
    distinct, place = ids.unique(return_inverse=True)
    known = names.ids(distinct)
    return [[known[i] for i in row] for row in place.tolist()]
