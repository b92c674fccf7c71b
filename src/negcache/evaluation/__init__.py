"""Exact search over a whole corpus, TREC run files, and retrieval metrics."""

from negcache.evaluation.encode import encode_all
from negcache.evaluation.evaluate import Evaluation, Side, chunks, evaluate
from negcache.evaluation.metrics import MEASURES, Ranking, measure
from negcache.evaluation.runfile import write_run

__all__ = [
    "MEASURES",
    "Evaluation",
    "Ranking",
    "Side",
    "chunks",
    "encode_all",
    "evaluate",
    "measure",
    "write_run",
]
