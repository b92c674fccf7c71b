"""Exact search over a whole corpus, TREC run files, and retrieval metrics."""

from negcache.evaluation.encode import encode_all
from negcache.evaluation.evaluate import Evaluation, Side, chunks, evaluate
from negcache.evaluation.labels import evaluate_labels, inverse_propensity, label_metrics
from negcache.evaluation.metrics import MEASURES, Ranking, measure
from negcache.evaluation.runfile import write_run
from negcache.evaluation.unseen import evaluate_unseen, top_k_unseen

__all__ = [
    "MEASURES",
    "Evaluation",
    "Ranking",
    "Side",
    "chunks",
    "encode_all",
    "evaluate",
    "evaluate_labels",
    "evaluate_unseen",
    "inverse_propensity",
    "label_metrics",
    "measure",
    "top_k_unseen",
    "write_run",
]
