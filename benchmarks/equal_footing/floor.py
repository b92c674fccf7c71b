"""BM25, which nothing is trained for."""

import bm25s
import torch

from benchmarks.retrieval import some
from negcache.run.data import Task
from negcache.run.evaluation import MEASURES, Evaluation, Ranking, measure
from negcache.run.evaluation.metrics import DEPTH


def bm25(task: Task, queries: int) -> Evaluation:
    """Of so many queries of test, over all items."""
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
    known = torch.isin(judged.queries, asked)
    per_query = measure(
        ranking,
        task.query_text.ids(judged.queries[known]),
        task.corpus_text.ids(judged.items[known]),
        judged.grades[known],
    )
    means = {name: sum(per_query[name].values()) / len(asked) for name in MEASURES}
    return Evaluation(means, per_query, ranking)
