"""The published truncation: golden vectors NC-8 and NC-9, and what it refuses."""

import pytest
import torch
from torch import tensor

import negcache as nc
from negcache.contrib import GroupedTopK
from negcache.contrib.grouped_top_k import grouped_top_k
from negcache.draws import draw
from negcache.estimators import cached_partition, softmax_loss
from negcache.exclusion import Exclusion
from negcache.messages import Request

CACHE = tensor([[1.0], [-1.0], [3.0], [2.0]], dtype=torch.float64)


def test_the_best_of_each_group():
    scores = tensor([[1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 3.0, 4.0], [4.0, 1.0, 3.0, 2.0]])
    values, columns = grouped_top_k(scores, 2)
    assert values.tolist() == [[2, 4], [2, 4], [4, 3]]
    assert columns.tolist() == [[1, 3], [0, 3], [0, 2]]


def asked(queries):
    store = nc.DenseCache(4, 1, dtype=torch.float64)
    store.write(torch.arange(4), CACHE)
    none = torch.full((len(queries),), -1)
    nobody = Exclusion.from_pairs(none[:0], none[:0], len(queries))
    return store, Request(queries, nc.DotScore(1.0, normalize=False).double(), none, nobody)


def test_the_truncated_loss():
    """NC-8: -log p+ of positive 2, its partition that of the kept rows alone."""
    queries = tensor([[-1.0], [1.0]], dtype=torch.float64)
    store, request = asked(queries)
    drawn = draw(GroupedTopK(store, 3, 2), request, torch.Generator().manual_seed(0))
    wanted = tensor([[1, 3], [0, 2]])
    assert all(
        set(row) <= set(kept)
        for row, kept in zip(drawn.ids[drawn.columns].tolist(), wanted.tolist(), strict=True)
    )
    fresh = request.score.paired(queries, CACHE[drawn.ids[drawn.columns]])
    losses = softmax_loss(2 * queries[:, 0], cached_partition(fresh, drawn))
    torch.testing.assert_close(
        losses, tensor([3.094922956, 1.407605964], dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_draws_are_from_the_kept_rows():
    """By their softmax: q = -1 keeps scores 1 and -2."""
    store, request = asked(tensor([[-1.0]], dtype=torch.float64).expand(4000, 1).contiguous())
    drawn = draw(GroupedTopK(store, 1, 2), request, torch.Generator().manual_seed(0))
    found = drawn.ids[drawn.columns]
    assert found.unique().tolist() == [1, 3]
    assert abs(float((found == 1).double().mean()) - 0.952574) < 0.015


def test_groups_of_unequal_size_are_refused():
    store, _ = asked(tensor([[1.0]], dtype=torch.float64))
    with pytest.raises(nc.InputError, match="4 rows are a multiple of"):
        GroupedTopK(store, 1, 3)
