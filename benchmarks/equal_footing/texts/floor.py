"""BM25, which nothing is trained for."""

import bm25s
import torch

from benchmarks.retrieval import Problem, some
from negcache.run.evaluation import Evaluation, Ranking, evaluation_of
from negcache.run.evaluation.metrics import DEPTH


def bm25(problem: Problem, queries: int) -> Evaluation:
    """Of so many queries of test, over all items."""
    task = problem.task
    judged, every = some(task.splits["test"], queries), torch.arange(len(task.corpus_text))
    asked = judged.queries[judged.grades > 0].unique()
    index = bm25s.BM25()
    index.index(
        bm25s.tokenize(task.corpus_text.texts(every), show_progress=False), show_progress=False
    )
    words = bm25s.tokenize(task.query_text.texts(asked), show_progress=False)
    found, scores = index.retrieve(words, k=min(DEPTH, len(every)), show_progress=False)
    items = [task.corpus_text.ids(torch.from_numpy(row).long()) for row in found]
    ranking = Ranking(task.query_text.ids(asked), items, torch.from_numpy(scores))
    return evaluation_of(ranking, judged, asked, task.query_text, task.corpus_text)
