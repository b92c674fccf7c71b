"""The pool in one pass is the table of scores: values, gradients, what may not stand, memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from negcache.exclusion import Exclusion
from negcache.ops import pool_sum
from negcache.ops.pool_sum import log_sums, pool_sums

B, M, D = 13, 37, 5


def problem(weights="alike", dtype=torch.float64):
    noise = torch.Generator().manual_seed(0)
    queries = torch.randn(B, D, generator=noise, dtype=dtype).requires_grad_()
    items = torch.randn(M, D, generator=noise, dtype=dtype).requires_grad_()
    shape = (M,) if weights == "alike" else (B, M)
    weight = torch.randn(shape, generator=noise, dtype=dtype)
    weight[..., 3] = -torch.inf
    rows = torch.cat([torch.randint(B, (30,), generator=noise), torch.full((M,), 4)])
    columns = torch.cat([torch.randint(M, (30,), generator=noise), torch.arange(M)])
    return queries, items, weight, Exclusion.from_pairs(rows, columns, B)  # row 4 has nothing


def table(queries, items, weight, masked):
    terms = queries @ items.T + weight
    return log_sums(terms.masked_fill(masked.mask(torch.arange(M)), -torch.inf))


@pytest.mark.parametrize("weights", ["alike", "each its own"])
@pytest.mark.parametrize("held", [1, 100, 1 << 18])
def test_it_is_the_table(monkeypatch, weights, held):
    monkeypatch.setitem(pool_sum.HELD, "cpu", held)
    queries, items, weight, masked = problem(weights)
    grad = torch.randn(B, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, gradients = [], []
    for sums in (pool_sums, table):
        found.append(sums(queries, items, weight, masked))
        alive = found[-1].log_sum.masked_fill(found[-1].log_sum == -torch.inf, 0.0)
        gradients.append(torch.autograd.grad((alive * grad).sum(), (queries, items)))
    torch.testing.assert_close(found[0].log_sum, found[1].log_sum)
    torch.testing.assert_close(found[0].log_squares, found[1].log_squares)
    assert found[0].log_sum[4] == -torch.inf, "nothing may stand for it"
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
        assert one.isfinite().all()


def test_large_scores_neither_overflow_nor_vanish():
    queries, items, weight, masked = problem(dtype=torch.float32)
    found = pool_sums(1e3 * queries, items, weight, masked)
    wanted = table(1e3 * queries, items, weight, masked)
    torch.testing.assert_close(found.log_sum, wanted.log_sum)


def test_a_pool_of_nothing_sums_up_to_nothing():
    queries, items, weight, masked = problem()
    none = Exclusion.from_pairs(masked.ids[:0], masked.ids[:0], B)
    found = pool_sums(queries, items[:0], weight[:0], none)
    assert (found.log_sum == -torch.inf).all()


class Largest(TorchDispatchMode):
    """The most numbers that any tensor has while it watches."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor):
            self.most = max(self.most, found.numel())
        return found


def test_no_table_of_all_queries_and_items_is_ever_held(monkeypatch):
    monkeypatch.setitem(pool_sum.HELD, "cpu", 8 * M)
    queries, items, weight, masked = problem()
    with Largest() as seen:
        pool_sums(queries, items, weight, masked).log_sum.nan_to_num(neginf=0.0).sum().backward()
    assert seen.most <= 8 * M
