"""A store that is renewed as a whole: laws, schedule, and what it passes over."""

import pytest
import torch
from setting import N, Setting

import negcache as nc
from negcache.samplers.stale_ann import StaleTopK
from negcache.testing.conformance import check_store

EVERY = 3


def dense(num_items, every):
    return nc.DenseCache(num_items, 3, refresh=nc.stores.Snapshot(every))


def pool(size, every, seed=0):
    return nc.SubsetCache(100, 3, size, seed=seed, refresh=nc.stores.Snapshot(every))


def top(store):
    return StaleTopK(store, 4)


@pytest.mark.parametrize("every", [1, 3, 10])
@pytest.mark.parametrize(
    "build", [lambda every: dense(37, every), lambda every: pool(20, every)], ids=["dense", "pool"]
)
def test_laws(build, every):
    check_store(lambda: build(every), 1 / every)


def test_rows_drawn_between_two_snapshots_are_passed_over():
    store = dense(10, EVERY)
    everything = torch.arange(10)
    for step in range(7):
        store.write(everything, torch.full((10, 3), float(step)))  # what a step encodes
        taken = EVERY * (step // EVERY)
        assert (store.rows(everything) == (taken - 0.5 if taken else 0.0)).all()
        planned = store.plan()
        store.commit()
        assert planned.numel() == (10 if (step + 1) % EVERY == 0 else 0)
        store.write(planned, torch.full((len(planned), 3), step + 0.5))
        store.step()


def test_a_pool_passes_rows_over_that_are_drawn_between_two_snapshots():
    store = pool(20, EVERY, 0)
    store.write(store.missing(), torch.zeros(20, 3))
    for _ in range(EVERY):
        store.write(torch.arange(100), torch.ones(100, 3))  # what a step encodes
        assert (store.rows(torch.arange(20)) == 0).all()
        planned = store.plan()
        store.commit()
        store.write(planned, torch.full((len(planned), 3), 2.0))
        store.step()
    assert (store.rows(torch.arange(20)) == 2).all()


def test_training_encodes_all_rows_at_every_third_step_and_none_between():
    setting = Setting(top, refresh=nc.stores.Snapshot(EVERY), fill=False)
    encoded = []
    for step in range(7):
        before = setting.store.table.embeddings.clone()
        setting.step()
        encoded.append(setting.loss.report().encoded_nograd)
        same = torch.equal(before, setting.store.table.embeddings)
        assert same == ((step + 1) % EVERY != 0 and step > 0)
    assert encoded == [N, 0, N, 0, 0, N, 0]
    fresh = setting.loss.score.embed(setting.item_tower(setting.corpus)).detach()
    assert not torch.equal(setting.store.table.embeddings, fresh)


def test_a_snapshot_is_of_the_weights_after_the_step():
    setting = Setting(top, refresh=nc.stores.Snapshot(EVERY))
    for _ in range(EVERY):
        setting.step()
    fresh = setting.loss.score.embed(setting.item_tower(setting.corpus)).detach()
    torch.testing.assert_close(setting.store.table.embeddings, fresh, atol=1e-6, rtol=0)


def test_a_pool_is_drawn_anew_as_a_whole_and_uniformly():
    counts, rows = torch.zeros(100), torch.zeros(100, 3)
    for seed in range(100):
        store = pool(20, EVERY, seed)
        store.write(store.missing(), rows[:20])
        first = store.ids(torch.arange(20)).clone()
        for step in range(EVERY):
            assert torch.equal(store.ids(torch.arange(20)), first)
            planned = store.plan()
            store.commit()
            assert len(planned) == (20 if step == EVERY - 1 else 0)
            store.write(planned, rows[: len(planned)])
            store.step()
        assert store.valid.all()
        second = store.ids(torch.arange(20))
        assert not torch.equal(second.sort().values, first.sort().values)
        counts[second] += 1
    statistic = ((counts - 20) ** 2 / (20 * 0.8)).sum()
    assert statistic < 160  # chi-square with 99 degrees: p = 1e-4 at 161


def test_bad_input():
    with pytest.raises(nc.InputError, match=r"every of 1 or more.*got 0"):
        nc.DenseCache(10, 2, refresh=nc.stores.Snapshot(0))
    with pytest.raises(nc.InputError, match=r"size from 2 to the 10 items; got 11"):
        nc.SubsetCache(10, 2, 11, refresh=nc.stores.Snapshot(5))
