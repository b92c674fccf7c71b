"""The law of indexes, and that it fails on one that is broken."""

import pytest
import torch

import negcache as nc
from negcache.indexes import top_k
from negcache.testing.conformance import check_index


def exact(queries, items, score, k):
    return top_k(queries, [(0, items[:150]), (150, items[150:])], score, k)


def test_exact_search_obeys():
    check_index(exact)


def test_an_index_that_breaks_ties_at_random_is_caught():
    def shuffled(queries, items, score, k):
        order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))
        scores, places = top_k(queries, [(0, items[order])], score, k)
        return scores, order[places]

    with pytest.raises(AssertionError, match="smaller id"):
        check_index(shuffled)


def test_an_index_that_forgets_a_chunk_is_caught():
    with pytest.raises((AssertionError, nc.InputError)):
        check_index(lambda q, items, score, k: top_k(q, [(0, items[:150])], score, k))
