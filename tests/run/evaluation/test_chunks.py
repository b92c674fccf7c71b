"""Evaluations keep each query's best items and a chunk, by the bytes of what they make."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from negcache import DotScore, KnownPositives
from negcache.exclusion import Exclusion
from negcache.run.data import Judgements
from negcache.run.evaluation import (
    Side,
    encoded,
    evaluate,
    evaluate_labels,
    label_metrics,
    top_k_of_all,
)
from negcache.run.evaluation.encode import CHUNK

N, D, QUERIES = 50_000, 16, 20


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else (found,):
            if isinstance(one, torch.Tensor):
                self.bytes = max(self.bytes, one.nbytes)
        return found


class Computed:
    """Features of any item, of which none is kept."""

    def __len__(self):
        return N

    def __getitem__(self, ids):
        places = torch.arange(D)[None] + ids[:, None] * 0.37
        return torch.cat([places[:, ::2].sin(), places[:, 1::2].cos()], dim=1) * (
            1 + ids[:, None] % 7
        )


class Names:
    def ids(self, rows):
        return [str(row) for row in rows.tolist()]


@pytest.mark.parametrize("recommends", [False, True])
def test_no_tensor_is_larger_than_a_chunk(recommends):
    torch.manual_seed(0)
    tower = nn.Linear(D, D)
    queries, items = Side(tower, torch.randn(QUERIES, D), Names()), Side(tower, Computed(), Names())
    every = torch.arange(QUERIES)
    judged = Judgements(every, every * 1000, torch.ones(QUERIES, dtype=torch.int64))
    score = DotScore(1.0, normalize=False)
    taken = torch.rand(QUERIES, N) < 0.01 if recommends else torch.zeros(QUERIES, N).bool()
    seen = Exclusion.from_pairs(*taken.nonzero(as_tuple=True), QUERIES) if recommends else None
    with Largest() as largest:
        found = evaluate(queries, items, score, judged, seen=seen)
    assert largest.bytes == 4 * CHUNK * max(QUERIES, D)
    assert largest.bytes < 8 * N, "the ids of all items would be seen"
    with torch.no_grad():
        whole = score(tower(queries.features), tower(items.features[torch.arange(N)]))
    best = whole.masked_fill(taken, -torch.inf).sort(dim=1, descending=True, stable=True)
    assert found.ranking.item_names == [Names().ids(row) for row in best.indices[:, :100]]
    torch.testing.assert_close(found.ranking.scores, best.values[:, :100])


def test_labels_are_searched_as_they_come():
    torch.manual_seed(0)
    tower, points, score = nn.Linear(D, D), torch.randn(QUERIES, D), DotScore(1.0, normalize=False)
    every, weights = torch.arange(QUERIES), 1 + torch.rand(N)
    labels = torch.cat([every * 1000, every * 1000 + 7])
    with torch.no_grad():
        best = top_k_of_all(points, tower(Computed()[torch.arange(N)]), score, 5)[1]
    labels[::3] = best.repeat(2, 1)[::3, 1]  # some are found
    truth = KnownPositives.from_pairs(every.repeat(2), labels, QUERIES)
    with Largest() as largest:
        rows = encoded(tower, Computed(), score)
        found = evaluate_labels(points, rows, score, truth, weights)
    assert largest.bytes < 8 * N, "a number for each label would be seen"
    assert found == label_metrics(best, truth, weights)
    assert found["p3"] > 0
