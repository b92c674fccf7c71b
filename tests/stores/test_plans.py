"""Plans: asking changes nothing, and what is then carried out is what was said."""

import copy

import pytest
import torch

import negcache as nc
from negcache.stores import LowRankCache, Snapshot
from negcache.stores.reading import embeddings
from negcache.stores.refresh import rows_due

N, D, L, SAMPLE = 40, 6, 4, 12
EVERYTHING = torch.arange(N)


def fresh(step):
    """What the items look like after so many steps."""
    noise = torch.Generator().manual_seed(step)
    return torch.randn(N, D, generator=noise, dtype=torch.float64)


def low_rank(**settings):
    defaults = {"landmarks": L, "every": 3, "sample": SAMPLE, "full_below": 0.0}
    return LowRankCache(N, D, **defaults | settings, dtype=torch.float64)


BUILD = {
    "dense": lambda: nc.DenseCache(N, D, refresh=0.23, dtype=torch.float64),
    "dense_never": lambda: nc.DenseCache(N, D, refresh=0.0, dtype=torch.float64),
    "dense_snapshot": lambda: nc.DenseCache(N, D, refresh=Snapshot(3), dtype=torch.float64),
    "subset": lambda: nc.SubsetCache(N, D, 15, refresh=0.23, dtype=torch.float64),
    "subset_whole": lambda: nc.SubsetCache(N, D, 15, refresh=1.0, dtype=torch.float64),
    "subset_snapshot": lambda: nc.SubsetCache(N, D, 15, refresh=Snapshot(3), dtype=torch.float64),
    "low_rank": low_rank,
    "low_rank_full_passes": lambda: low_rank(full_below=1.0),
    "live": lambda: nc.LiveTable(torch.nn.Parameter(fresh(0))),
}


class Ear:
    """An observer that counts what it hears."""

    def __init__(self):
        self.heard = 0

    def rows_changed(self, change):
        self.heard += 1

    def invalidate(self):
        self.heard += 1

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def leaves(state, path=""):
    """All that is in nested state, by name."""
    if isinstance(state, dict):
        return {k: v for name in state for k, v in leaves(state[name], f"{path}/{name}").items()}
    return {path: state}


def assert_same(one, other):
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
        assert same(value, other[name]), name


def filled(name):
    store = BUILD[name]()
    while len(missing := store.missing()):
        store.write(missing, fresh(0)[missing])
    return store


def carry_out(store, step, asked=1):
    """One refresh as the training step makes it; the plan."""
    for _ in range(asked):
        planned = store.plan()
    store.commit()
    store.write(planned, fresh(step)[planned])
    store.step()
    return planned


@pytest.mark.parametrize("name", BUILD)
def test_asking_for_a_plan_changes_nothing(name):
    """In every step of a dozen, also right before a sample, a snapshot, a full pass."""
    store, ear = filled(name), Ear()
    store.observe(ear)
    for step in range(1, 13):
        before, heard = copy.deepcopy(store.state_dict()), ear.heard
        first, second = store.plan(), store.plan()
        assert torch.equal(first, second)
        assert_same(store.state_dict(), before)
        assert ear.heard == heard
        assert torch.equal(carry_out(store, step), first)


@pytest.mark.parametrize("name", BUILD)
def test_a_store_that_is_asked_often_is_the_one_that_is_asked_once(name):
    once, often = filled(name), filled(name)
    plans = []
    for step in range(1, 13):
        plans.append(carry_out(once, step))
        assert torch.equal(carry_out(often, step, asked=4), plans[-1])
    assert_same(once.state_dict(), often.state_dict())
    moves = name not in ("dense_never", "live")
    assert any(len(planned) for planned in plans) == moves


@pytest.mark.parametrize("name", ["dense", "dense_snapshot"])
def test_a_dense_cache_renews_the_rows_of_its_plan(name):
    store = filled(name)
    for step in range(1, 8):
        planned, before = store.plan(), store.rows(EVERYTHING)
        store.commit()
        store.write(planned, fresh(step)[planned])
        store.step()
        renewed = torch.isin(EVERYTHING, planned)
        assert torch.equal(store.rows(EVERYTHING)[renewed], fresh(step)[renewed])
        assert torch.equal(store.rows(EVERYTHING)[~renewed], before[~renewed])
        count = rows_due(0.23, N, step - 1) if name == "dense" else N * (step % 3 == 0)
        assert len(planned) == count


def test_a_snapshot_takes_what_is_planned_once_the_plan_is_carried_out_and_not_before():
    store = filled("dense_snapshot")
    for _ in range(2):
        carry_out(store, 1)
    planned = store.plan()
    store.write(planned, fresh(5))
    assert torch.equal(store.rows(EVERYTHING), fresh(0))
    store.commit()
    store.write(planned, fresh(6)[planned])
    assert torch.equal(store.rows(EVERYTHING), fresh(6))
    store.step()
    store.write(planned, fresh(7))
    assert torch.equal(store.rows(EVERYTHING), fresh(6))


@pytest.mark.parametrize("name", ["subset", "subset_whole", "subset_snapshot"])
def test_the_items_of_a_plan_and_no_others_move_into_a_subset(name):
    store, slots = filled(name), torch.arange(15)
    for step in range(1, 8):
        planned, before = store.plan(), store.ids(slots).clone()
        assert torch.equal(store.ids(slots), before)
        store.commit()
        now = store.ids(slots)
        place = store.slots(planned)
        assert torch.equal(now[place], planned)
        assert not store.valid[place].any()
        stayed = ~torch.isin(slots, place)
        assert torch.equal(now[stayed], before[stayed])
        assert store.valid[stayed].all()
        store.write(planned, fresh(step)[planned])
        store.step()
        assert store.valid.all()


def test_a_low_rank_cache_waits_for_the_sample_that_it_planned_and_learns_from_it():
    store = filled("low_rank")
    planned = store.plan()
    assert len(planned) == SAMPLE
    store.commit()
    assert torch.equal(store.refresh.sample.ids, planned.sort().values)
    assert torch.equal(store.plan(), planned), "what has not been written yet"
    store.write(planned[:5], fresh(1)[planned[:5]])
    before = copy.deepcopy(store.state_dict())
    assert torch.equal(store.plan(), planned[5:])
    assert_same(store.state_dict(), before)
    store.write(planned[5:], fresh(1)[planned[5:]])
    assert store.fits == 0
    store.step()
    assert (store.fits, store.refresh.sample) == (1, None)


def test_a_full_pass_begins_with_the_landmarks_that_were_planned():
    store, ear = filled("low_rank"), Ear()
    store.observe(ear)
    carry_out(store, 1)
    store.refresh.full_due, heard = True, ear.heard
    before = copy.deepcopy(store.state_dict())
    planned = store.plan()
    assert torch.equal(store.plan(), planned)
    assert_same(store.state_dict(), before)
    assert torch.equal(planned.sort().values, EVERYTHING)
    assert store.valid.all(), "the old rows stand until the pass begins"
    store.commit()
    assert ear.heard == heard + 1
    assert not store.valid.any()
    assert not store.refresh.full_due
    assert torch.equal(store.refresh.landmarks.ids, planned[:L].sort().values)
    assert torch.equal(store.plan(), planned)
    store.write(planned, fresh(2)[planned])
    store.step()
    assert store.valid.all()
    basis = torch.linalg.qr(fresh(2)[planned[:L]].T).Q
    torch.testing.assert_close(embeddings(store, EVERYTHING), fresh(2) @ basis @ basis.T)
