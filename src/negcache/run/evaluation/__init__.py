"""Exact search over a whole corpus, TREC run files, and retrieval metrics."""

from negcache.run.evaluation.encode import encode_all, encoded
from negcache.run.evaluation.evaluate import Evaluation, Side, evaluate, evaluation_of
from negcache.run.evaluation.labels import evaluate_labels, inverse_propensity, label_metrics
from negcache.run.evaluation.metrics import MEASURES, Ranking, measure
from negcache.run.evaluation.runfile import write_run
from negcache.run.evaluation.search import top_k_of_all

__all__ = [
    "MEASURES",
    "Evaluation",
    "Ranking",
    "Side",
    "encode_all",
    "encoded",
    "evaluate",
    "evaluate_labels",
    "evaluation_of",
    "inverse_propensity",
    "label_metrics",
    "measure",
    "top_k_of_all",
    "write_run",
]
