"""Sums of features follow the rows they are of."""

import copy

import pytest
import torch
from pace import slow

import negcache as nc
from negcache.draws import draw, propose
from negcache.indexes import sums as sums_module
from negcache.indexes.sums import KernelSums
from negcache.ops.kernels import Quadratic, fourier

N, D = 10_000, 8


@pytest.fixture(autouse=True)
def several_levels(monkeypatch):
    monkeypatch.setattr(sums_module, "TOP", 8)


def unit(shape, noise, dtype):
    return nc.DotScore().embed(torch.randn(shape, generator=noise, dtype=dtype))


def build(kernel, dtype, **settings):
    noise = torch.Generator().manual_seed(0)
    store = nc.DenseCache(N, D, dtype=dtype)
    store.write(torch.arange(N), unit((N, D), noise, dtype))
    sums = KernelSums(store, kernel, **settings)
    store.observe(sums)
    sums.build(unit((2, D), noise, dtype), torch.tensor(20.0))
    return store, sums, noise


def same(sums, store, atol, rtol=0.0):
    """The sums are those of a structure built from the rows as they are."""
    fresh = KernelSums(store, sums.kernel)
    fresh.build(torch.zeros(1, D, dtype=sums.levels[0].dtype), torch.tensor(20.0))
    assert len(fresh.levels) == len(sums.levels) == 3
    for ours, truth in zip(sums.levels + sums.counts, fresh.levels + fresh.counts, strict=True):
        torch.testing.assert_close(ours, truth, atol=atol, rtol=rtol)


KERNELS = [Quadratic(2.0), fourier(D, 16, 2.0)]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kernel", KERNELS, ids=["quadratic", "fourier"])
@pytest.mark.parametrize(
    ("dtype", "atol", "rtol"), [(torch.float64, 1e-9, 0), slow(torch.float32, 1e-4, 1e-3)]
)
@pytest.mark.parametrize("count", [1, 40])
def test_updates_equal_a_rebuild(kernel, dtype, atol, rtol, count):
    """Test 21: after any sequence of updates, between two scheduled rebuilds and across them."""
    store, sums, noise = build(kernel, dtype)
    for _ in range(10_000 // count if count > 1 else 1000):
        ids = torch.randperm(N, generator=noise)[:count]
        store.write(ids, unit((count, D), noise, dtype))
    same(sums, store, atol, rtol)


def test_float32_drift_stays_small_without_a_rebuild():
    """Test 21, float32: 10,000 updates added and subtracted."""
    store, sums, noise = build(Quadratic(2.0), torch.float32)
    for _ in range(250):
        ids = torch.randperm(N, generator=noise)[:40]
        store.write(ids, unit((40, D), noise, torch.float32))
        sums.moved = 0  # no rebuild is ever due
    same(sums, store, 1e-4, 1e-3)
    assert (sums.levels[0] != build(Quadratic(2.0), torch.float32)[1].levels[0]).any()


def test_a_rebuild_is_due_once_as_many_rows_have_moved_as_there_are():
    store, sums, noise = build(Quadratic(2.0), torch.float64)
    sums.levels[0][0] += 1.0  # an error that updates keep
    for moved in range(0, N, 300):
        assert sums.moved == moved
        assert (sums.levels[0][0, -1] - sums.counts[0][0]).abs() > 0.5
        ids = torch.randperm(N, generator=noise)[:300]
        store.write(ids, unit((300, D), noise, torch.float64))
    assert sums.moved == 0
    same(sums, store, 1e-9)


def test_counts_never_lag():
    """A block that filled up since the last sum is drawn from, at the kernel's smallest mass."""
    noise = torch.Generator().manual_seed(0)
    store = nc.DenseCache(300, D, dtype=torch.float64)
    items = unit((300, D), noise, torch.float64)
    store.write(torch.arange(128), items[:128])
    sampler = nc.quadratic(store, 200, alpha=3.0, update_every=10)
    zero = torch.zeros(1, dtype=torch.long)
    score = nc.DotScore(1.0).double()
    own = nc.exclusion.Exclusion.from_pairs(zero, zero, 1)
    asked = nc.messages.Request(items[:1], score, zero, own)
    draw(sampler, asked, noise)
    store.write(torch.arange(128, 300), items[128:])
    log_q = propose(sampler, asked, noise).log_prob(torch.arange(300))[0]
    assert (log_q[1:] > -torch.inf).all()
    assert abs(float(log_q.exp().sum()) - 1) < 1e-9


def test_a_structure_that_lags_is_summed_anew_once_all_rows_have_moved():
    store, sums, noise = build(Quadratic(2.0), torch.float64, every=2)
    sums.levels[0][70] += 1.0
    for _ in range(2):
        ids = torch.randperm(N // 2, generator=noise)[: N // 2]
        store.write(ids, unit((N // 2, D), noise, torch.float64))
    same(sums, store, 1e-9)


@pytest.mark.parametrize("every", [1, 3])
def test_the_rounded_level_follows_the_sums(every, monkeypatch):
    monkeypatch.setattr(sums_module, "_fast", lambda table: True)
    store, sums, noise = build(Quadratic(2.0), torch.float32, every=every)
    before = sums.rounded.clone()
    for _ in range(3):
        ids = torch.randperm(N, generator=noise)[:20]
        store.write(ids, unit((20, D), noise, torch.float32))
        assert torch.equal(sums.rounded, sums.levels[-1].bfloat16())
    assert not torch.equal(sums.rounded, before)
    features = sums.kernel.query_features(unit((5, D), noise, torch.float32), torch.tensor(3.0))
    exact = features @ sums.levels[-1].T
    torch.testing.assert_close(sums.top_masses(features), exact, atol=0, rtol=0.02)
    assert build(Quadratic(2.0), torch.float64)[1].rounded is None
    state = copy.deepcopy(store.state_dict())
    sums.invalidate()
    store.load_state_dict(state)
    assert torch.equal(sums.rounded, sums.levels[-1].bfloat16())


def test_sums_follow_the_dtype_of_the_queries():
    _, sums, _ = build(Quadratic(2.0), torch.float64)
    sums.build(torch.zeros(1, D), torch.tensor(1.0))
    assert sums.levels[0].dtype == torch.float32


def test_rows_that_are_not_finite_are_refused_after_the_first_build():
    store, sums, _ = build(Quadratic(2.0), torch.float64)
    with pytest.raises(nc.InputError, match="finite"):
        store.write(torch.tensor([3]), torch.full((1, D), torch.nan, dtype=torch.float64))
    assert sums.moved == 0


def test_a_state_of_another_size_is_refused():
    _, sums, _ = build(Quadratic(2.0), torch.float64)
    small = KernelSums(nc.DenseCache(300, D), Quadratic(2.0))
    with pytest.raises(nc.InputError, match="blocks of rows"):
        small.load_state_dict(sums.state_dict())
    assert small.levels == []


def test_sums_that_lag_catch_up():
    store, sums, noise = build(Quadratic(2.0), torch.float64, every=3)
    before = sums.levels[0].clone()
    for _ in range(2):
        store.write(torch.arange(5), unit((5, D), noise, torch.float64))
        assert torch.equal(sums.levels[0], before)
    store.write(torch.arange(1000, 1005), unit((5, D), noise, torch.float64))
    same(sums, store, 1e-9)


def test_first_writes_and_rows_let_go_are_counted():
    """A subset cache moves on: its slots change their items."""
    noise = torch.Generator().manual_seed(0)
    store = nc.SubsetCache(2 * N, D, N, refresh=0.1, dtype=torch.float64)
    items = unit((2 * N, D), noise, torch.float64)
    store.write(torch.arange(N), items[:N])
    sums = KernelSums(store, Quadratic(2.0))
    store.observe(sums)
    sums.build(items[:2], torch.tensor(1.0))
    assert sums.counts[-1].sum() == store.valid.sum() < N
    store.write(torch.arange(2 * N), items)
    same(sums, store, 1e-9)
    for _ in range(5):
        planned = store.plan()
        store.commit()
        assert sums.counts[-1].sum() == N - len(planned)
        store.write(planned, items[planned])
        store.step()
        same(sums, store, 1e-9)


def test_state_goes_with_the_store():
    """A resumed structure goes on bit by bit, its drift with it."""
    store, sums, noise = build(fourier(D, 16, 2.0), torch.float32)
    store.write(torch.arange(50), unit((50, D), noise, torch.float32))
    state = copy.deepcopy(store.state_dict())
    other_store, other, _ = build(fourier(D, 16, 2.0, seed=5), torch.float32)
    other_store.load_state_dict(state)
    rows = unit((50, D), noise, torch.float32)
    for one in (store, other_store):
        one.write(torch.arange(100, 150), rows)
    for ours, theirs in zip(sums.levels + sums.counts, other.levels + other.counts, strict=True):
        assert torch.equal(ours, theirs)
    assert sums.moved == other.moved


def test_memory_is_that_of_the_rows():
    """A block's sum takes what its rows take, within the packed square: N D, not N F."""
    _, sums, _ = build(Quadratic(2.0), torch.float32)
    held = sum(level.numel() for level in sums.levels)
    blocks = -(-N // 128)
    features = D * (D + 1) // 2 + 1
    assert held <= features * (blocks + 8) * 8 / 7 + 16 * features
