"""The order of a stream: each row once, the same from anywhere, for any number of processes."""

from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shards import process

from negcache.errors import InputError
from negcache.run.data.streams import WindowOrder

groups = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def rows_of(order, number, part=slice(None)):
    """(row group, row) of a batch."""
    pieces = order.batch(number, part)
    return [pair for piece in pieces for pair in zip(piece.groups, piece.rows, strict=True)]


@st.composite
def orders(draw):
    rows = np.array(draw(groups))
    size = draw(st.integers(1, int(rows.sum())))
    return WindowOrder(rows, size, draw(st.integers(0, 2**40)), draw(st.integers(1, 5)))


@given(orders())
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_row_once_but_a_short_last_batch(order):
    per_epoch = order.batches_per_epoch
    every = {(g, r) for g, rows in enumerate(order.rows.tolist()) for r in range(rows)}
    for epoch in range(2):
        batches = [rows_of(order, epoch * per_epoch + batch) for batch in range(per_epoch)]
        assert {len(batch) for batch in batches} == {order.batch_size}
        seen = [pair for batch in batches for pair in batch]
        assert len(set(seen)) == len(seen)
        assert set(seen) <= every
        assert len(every) - len(seen) == len(every) % order.batch_size
    rows_of(order, 9 * per_epoch)
    assert len(order._epochs) == 1, "what was planned of other epochs is kept"


@given(orders())
@settings(max_examples=60, deadline=None)
def test_a_window_has_a_few_row_groups_and_each_is_in_one(order):
    whole = WindowOrder(order.rows, 1, order.seed, order.window)
    windows = {
        piece.window.index: piece.window.groups
        for number in range(whole.num_rows)
        for piece in whole.batch(number)
    }
    sizes = [len(window) for window in windows.values()]
    assert max(sizes) <= order.window
    assert max(sizes) - min(sizes) <= 1
    assert sorted(chain(*windows.values())) == list(range(len(order.rows)))
    assert list(windows) == list(range(len(windows)))


@given(orders(), st.integers(1, 4), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_processes_share_the_batch_of_one(order, size, number):
    parts = [process(rank, size).part(order.batch_size) for rank in range(size)]
    shared = [rows_of(order, number, part) for part in parts]
    assert list(chain(*shared)) == rows_of(order, number)
    assert max(map(len, shared)) - min(map(len, shared)) <= 1


@given(orders(), st.lists(st.integers(0, 60), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_batch_is_the_same_from_anywhere(order, numbers):
    for number in numbers:
        fresh = WindowOrder(order.rows, order.batch_size, order.seed, order.window)
        assert rows_of(order, number) == rows_of(fresh, number)


@given(orders())
@settings(max_examples=30, deadline=None)
def test_what_follows_a_window_is_what_the_next_batches_need(order):
    met = []
    for number in range(2 * order.batches_per_epoch + 1):
        met += [piece.window for piece in order.batch(number) if piece.window not in met]
    for window, after in pairwise(met):
        assert order.following(window) == after


ROWS = np.array([4, 6, 5, 5, 3, 7])


def test_epochs_and_seeds_shuffle_anew():
    def epoch(seed, number):
        order = WindowOrder(ROWS, 30, seed, 2)
        return rows_of(order, number)

    firsts = [epoch(0, 0), epoch(0, 1), epoch(1, 0), epoch(2**32, 0), epoch(2**32 + 1, 0)]
    assert len({tuple(one) for one in firsts}) == len(firsts)
    assert len({tuple(sorted(one)) for one in firsts}) == 1
    order = WindowOrder(np.full(40, 5), 10, 0)
    windows = [order.window_of(epoch, 0).groups for epoch in range(3)]
    assert len({tuple(sorted(groups)) for groups in windows}) == 3, "row groups meet others"


def test_rows_of_a_window_are_mixed_and_row_groups_too():
    order = WindowOrder(np.full(40, 50), 100, 0, 8)
    (piece,) = order.batch(0)
    assert len(set(piece.groups.tolist())) == 8
    assert sorted(piece.window.groups) != list(range(8))
    assert np.any(np.diff(piece.rows) < 0)


def test_the_order_stays_what_it_was():
    """Runs resume with later versions: these are the rows that version 0.2 read."""
    order = WindowOrder(ROWS, 5, 7, 2)
    assert [order.window_of(0, index).groups for index in range(3)] == [(1, 3), (5, 4), (2, 0)]
    assert rows_of(order, 0) == [(3, 4), (1, 2), (1, 1), (3, 1), (3, 0)]
    assert rows_of(order, 6) == [(5, 0), (5, 4), (1, 2), (1, 3), (1, 5)]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ((31, 0), "a batch of 1 to 30 rows; got one of 31.*fewer"),
        ((0, 0), "got one of 0.*more"),
        ((5, -1), "a seed of at least 0; got window = 8, seed = -1"),
        ((5, 0, 0), "a window of at least 1 row group .* got window = 0"),
    ],
)
def test_settings_that_cannot_be(settings, match):
    with pytest.raises(InputError, match=match):
        WindowOrder(ROWS, *settings)


def test_batches_are_counted_from_0():
    with pytest.raises(InputError, match="a batch from 0 on; got -1"):
        rows_of(WindowOrder(ROWS, 5, 0), -1)
