"""Retrieval metrics through ir_measures: nothing is computed here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ir_measures
from ir_measures import RR, R, nDCG

from negcache.shapes import Float, Int, Tensor

MEASURES = {"ndcg10": nDCG @ 10, "mrr10": RR @ 10, "r1": R @ 1, "r10": R @ 10, "r100": R @ 100}
"""Our short names of the measures we report."""

DEPTH = 100
"""Items per query that the measures look at."""


@dataclass(frozen=True)
class Ranking:
    """The best items of every query, by the names that the dataset gives them.

    Args:
        query_names: name of each of the B queries.
        item_names: for each query, names of its k best items, best first.
        scores: [B, k], falling.
    """

    query_names: Sequence[str]
    item_names: Sequence[Sequence[str]]
    scores: Float[Tensor, "B k"]

    def entries(self) -> Iterator[tuple[str, str, int, float]]:
        """(query, item, rank from 1, score), in order."""
        rows = zip(self.query_names, self.item_names, self.scores.tolist(), strict=True)
        for query, items, scores in rows:
            for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1):
                yield query, item, rank, score


def measure(
    ranking: Ranking, queries: Sequence[str], items: Sequence[str], grades: Int[Tensor, "P"]
) -> dict[str, dict[str, float]]:
    """Every measure of every query: ``{"mrr10": {query name: value}, ...}``.

    Args:
        ranking: what was found.
        queries: query name of each judgement.
        items: item name of each judgement.
        grades: grade of each judgement; nDCG uses it as gain, the others take > 0 as relevant.
    """
    judged = zip(queries, items, grades.tolist(), strict=True)
    qrels = [ir_measures.Qrel(query, item, grade) for query, item, grade in judged]
    # by rank, not by score: ties are broken by one rule, whoever computes a measure
    found = [ir_measures.ScoredDoc(q, i, float(-rank)) for q, i, rank, _ in ranking.entries()]
    names = {wanted: name for name, wanted in MEASURES.items()}
    values: dict[str, dict[str, float]] = {name: {} for name in MEASURES}
    for metric in ir_measures.iter_calc(list(MEASURES.values()), qrels, found):
        values[names[metric.measure]][metric.query_id] = metric.value
    return values
