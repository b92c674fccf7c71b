"""A cache that is renewed as a whole: laws, schedule, and what it passes over."""

import pytest
import torch
from setting import N, Setting

import negcache as nc
from negcache.stores.snapshot import SnapshotCache
from negcache.testing.conformance import check_cache
from negcache.samplers.stale_ann import StaleTopK

EVERY = 3


def dense(num_items, every):
    return nc.DenseCache(num_items, 3, refresh=nc.stores.Snapshot(every))


def pool(size, every, seed=0):
    return nc.SubsetCache(100, 3, size, seed=seed, refresh=nc.stores.Snapshot(every))


@pytest.mark.parametrize("every", [1, 3, 10])
@pytest.mark.parametrize(
    "build", [lambda every: dense(37, every), lambda every: pool(20, every)], ids=["dense", "pool"]
)
def test_laws(build, every):
    check_store(lambda: build(every), 1 / every)


def test_rows_drawn_between_two_snapshots_are_passed_over():
    cache = dense(10, EVERY)
    everything = torch.arange(10)
    for step in range(7):
        cache.write(everything, torch.full((10, 3), float(step)))  # what a step encodes
        taken = EVERY * (step // EVERY)
        assert (cache.rows(everything) == (taken - 0.5 if taken else 0.0)).all()
        due = cache.due()
        assert due.numel() == (10 if (step + 1) % EVERY == 0 else 0)
        cache.write(due, torch.full((len(due), 3), step + 0.5))
        cache.tick()


def test_training_encodes_all_rows_at_every_third_step_and_none_between():
    setting = Setting(lambda cache: StaleTopK(SnapshotCache(cache, EVERY), 4), rho=1.0, fill=False)
    encoded = []
    for step in range(7):
        before = setting.cache.table.clone()
        setting.step()
        encoded.append(setting.loss.report().encoded_nograd)
        assert torch.equal(before, setting.cache.table) == ((step + 1) % EVERY != 0 and step > 0)
    assert encoded == [N, 0, N, 0, 0, N, 0]
    fresh = setting.loss.score.embed(setting.item_tower(setting.corpus)).detach()
    assert not torch.equal(setting.cache.table, fresh)


def test_a_snapshot_is_of_the_weights_after_the_step():
    setting = Setting(lambda cache: StaleTopK(SnapshotCache(cache, EVERY), 4), rho=1.0)
    for _ in range(EVERY):
        setting.step()
    fresh = setting.loss.score.embed(setting.item_tower(setting.corpus)).detach()
    torch.testing.assert_close(setting.cache.table, fresh, atol=1e-6, rtol=0)


def test_a_pool_is_drawn_anew_as_a_whole_and_uniformly():
    counts, rows = torch.zeros(100), torch.zeros(100, 3)
    for seed in range(100):
        cache = pool(20, EVERY, seed)
        cache.write(cache.missing(), rows[:20])
        first = cache.ids(torch.arange(20)).clone()
        for step in range(EVERY):
            assert torch.equal(cache.ids(torch.arange(20)), first)
            due = cache.due()
            assert len(due) == (20 if step == EVERY - 1 else 0)
            cache.write(due, rows[: len(due)])
            cache.tick()
        assert cache.valid.all()
        second = cache.ids(torch.arange(20))
        assert not torch.equal(second.sort().values, first.sort().values)
        counts[second] += 1
    statistic = ((counts - 20) ** 2 / (20 * 0.8)).sum()
    assert statistic < 160  # chi-square with 99 degrees: p = 1e-4 at 161


def test_bad_input():
    with pytest.raises(nc.InputError, match=r"every of 1 or more.*got 0"):
        nc.DenseCache(10, 2, refresh=nc.stores.Snapshot(0))
    with pytest.raises(nc.InputError, match=r"rho=1\.0.*got rho=0\.01"):
        SnapshotCache(nc.DenseCache(10, 2), 5)
    with pytest.raises(nc.InputError, match=r"size from 2 to the 10 items; got 11"):
        nc.SubsetCache(10, 2, 11, refresh=nc.stores.Snapshot(5))
