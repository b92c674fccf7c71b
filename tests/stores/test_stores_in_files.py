"""Stores whose rows move on, in a file: as in memory, bit for bit, and back to a checkpoint."""

from copy import deepcopy

import pytest
import torch
from pace import slow
from torch import nn

import negcache as nc
from negcache.testing.conformance import check_store

N, D, SIZE, STEPS = 60, 4, 24, 10
FEATURES = torch.randn(N, 6, generator=torch.Generator().manual_seed(1))
KINDS = {
    "streaming": lambda **told: nc.StreamingCache(SIZE, D, refresh=0.1, **told),
    "lru": lambda **told: nc.StreamingCache(
        SIZE, D, refresh=0.1, eviction="least_recently_refreshed", **told
    ),
    "subset": lambda **told: nc.SubsetCache(N, D, SIZE, refresh=0.1, **told),
}


class Training:
    """Towers over a store whose rows leave from the third step on; batches by number."""

    def __init__(self, kind, **told):
        torch.manual_seed(0)
        self.query_tower, item_tower = nn.Linear(6, D), nn.Linear(6, D)
        self.store = KINDS[kind](**told)
        self.comes = isinstance(self.store, nc.StreamingCache)
        corpus = self.store if self.comes else FEATURES
        sampler = nc.SharedDraws(nc.CachedSoftmax(self.store, 3))
        self.loss_fn = nc.SoftmaxLoss(item_tower, corpus, sampler, nc.DotScore(0.3))
        parameters = [*self.query_tower.parameters(), *self.loss_fn.parameters()]
        self.optimizer = torch.optim.Adam(parameters, 1e-2)
        self.parts = self.query_tower, self.loss_fn.item_tower, self.optimizer

    def step(self, number):
        noise = torch.Generator().manual_seed(number)
        seen, more = torch.randint(N, (2, 6), generator=noise)
        if self.comes:
            self.store.receive(seen, FEATURES[seen])
            self.store.receive(more, FEATURES[more])
        loss = self.loss_fn(self.query_tower(FEATURES[seen] + 0.1), seen)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.loss_fn.step()
        return loss.detach()

    def state(self):
        return deepcopy([self.loss_fn.own_state(), *(each.state_dict() for each in self.parts)])

    def load(self, state):
        own, *others = deepcopy(state)
        self.loss_fn.load_own_state(own)
        for part, saved in zip(self.parts, others, strict=True):
            part.load_state_dict(saved)

    def found(self):
        """All that is known of the rows, and what was learned."""
        store, every = self.store, torch.arange(SIZE)
        rows = store.rows(every)[store.valid], store.ids(every), self.loss_fn.item_tower.weight
        return [each.detach().clone() for each in (*rows, store.valid, store.table.written)]


def assert_same(got, wanted):
    assert all(torch.equal(*pair) for pair in zip(got, wanted, strict=True))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("streaming", torch.int8),
        slow("streaming", torch.float32),
        ("lru", torch.float32),
        slow("subset", torch.int8),
        ("subset", torch.float32),
    ],
)
def test_a_file_is_a_table_in_memory_and_resumes_bit_for_bit(tmp_path, kind, dtype):
    wanted = Training(kind, dtype=dtype)
    run = Training(kind, dtype=dtype, path=tmp_path / "rows")
    saved = []
    for number in range(STEPS):
        saved.append((run.state(), wanted.found()))
        assert torch.equal(run.step(number), wanted.step(number))
        assert_same(run.found(), wanted.found())
    for begun in (STEPS - 1, STEPS - 3):
        run = Training(kind, dtype=dtype, path=tmp_path / "rows")
        run.load(saved[begun][0])
        assert_same(run.found(), saved[begun][1])
        for number in range(begun, STEPS):
            run.step(number)
        assert_same(run.found(), wanted.found())


def test_the_laws_of_stores_hold_in_a_file(tmp_path):
    build = lambda: nc.SubsetCache(N, 3, SIZE, refresh=0.1, path=tmp_path / "rows")  # noqa: E731
    check_store(build, 0.1)


def test_a_removed_item_is_undone_too(tmp_path):
    run = Training("streaming", path=tmp_path / "rows")
    for number in range(4):
        run.step(number)
    state, wanted = run.state(), run.found()
    gone = run.store.ids(torch.arange(5))
    run.store.remove(gone)
    assert run.store.valid.sum() == wanted[3].sum() - 5
    assert (run.store.table.written[:5] == -1).all()
    run.load(state)
    assert_same(run.found(), wanted)


def test_looking_at_an_empty_table_loses_nothing_of_what_is_in_the_file(tmp_path):
    """Ages and plans are asked for before a state is loaded, too."""
    run = Training("streaming", path=tmp_path / "rows")
    run.step(0)
    state, wanted = run.state(), run.found()
    again = Training("streaming", path=tmp_path / "rows")
    assert not len(again.store.plan())
    assert (again.store.table.written == -1).all()
    again.load(state)
    assert_same(again.found(), wanted)


def test_a_state_is_true_wherever_the_files_are_moved_to(tmp_path):
    run = Training("subset", path=tmp_path / "rows")
    run.step(0)
    state, wanted = run.state(), run.found()
    run.step(1)
    there = tmp_path / "there"
    there.mkdir()
    for each in list(tmp_path.glob("rows*")):
        each.rename(there / each.name)
    assert str(tmp_path) not in str(state)
    moved = Training("subset", path=there / "rows")
    moved.load(state)
    assert_same(moved.found(), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_a_file_are_on_the_host(tmp_path, kind):
    with pytest.raises(nc.InputError, match="on the host"):
        KINDS[kind](device="meta", path=tmp_path / "rows")


def test_a_loss_over_rows_in_a_file_stays_on_the_host(tmp_path):
    run = Training("subset", path=tmp_path / "rows")
    with pytest.raises(nc.InputError, match=r"file on the host; got meta.*leave the loss"):
        run.loss_fn.to("meta")
    assert {each.device.type for each in run.loss_fn.parameters()} == {"cpu"}
    run.step(0)
