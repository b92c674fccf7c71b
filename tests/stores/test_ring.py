"""Which item leaves next: the published bookkeeping (golden vector NC-12), and a plain model."""

from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from negcache.stores.ring import Ring


def play(data, age, calls, *, fifo=False):
    """(data, age) after each call: ``{"wb": {slot: value}, "kept": [...], "ins": [...], "mask"}``.

    ``kept`` says which rows are written back, ``mask`` which new items come in.
    """
    ring, data = Ring(len(data)), tensor(data)
    ring.put(torch.arange(len(data)), torch.arange(100, 100 + len(data)), -tensor(age))
    for step, call in enumerate(calls, start=1):
        back = list(call.get("wb", {}).items())
        for (slot, value), is_kept in zip(back, call.get("kept", [True] * len(back)), strict=True):
            if is_kept:
                data[slot] = value
                if not fifo:
                    ring.touch(tensor([slot]), step)
        mask = call.get("mask", [True] * len(call.get("ins", [])))
        new = tensor([v for v, m in zip(call.get("ins", []), mask, strict=True) if m]).long()
        slots = ring.leaving(len(new))
        ring.put(slots, 1000 * step + torch.arange(len(new)), step)
        data[slots] = new
        yield data.tolist(), (step - ring.touched).tolist()


NC_12 = [
    (
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [{"ins": [1, 1]}, {"ins": [2, 2]}, {"ins": [3, 3]}],
        [
            ([1, 1, 0, 0], [0, 0, 1, 1]),
            ([1, 1, 2, 2], [1, 1, 0, 0]),
            ([3, 3, 2, 2], [0, 0, 1, 1]),
        ],
    ),
    (
        [0, 0, 0],
        [0, 0, 0],
        [{"ins": [1, 1]}, {"ins": [2, 2]}],
        [([1, 1, 0], [0, 0, 1]), ([2, 1, 2], [0, 1, 0])],
    ),
    ([0, 0, 0, 0], [0, 0, 0, 0], [{"wb": {1: 1, 3: 1}}], [([0, 1, 0, 1], [1, 0, 1, 0])]),
    ([0, 0, 3], [2, 1, 0], [{"wb": {0: 10}, "ins": [11]}], [([10, 11, 3], [0, 0, 1])]),
    ([0, 0, 0, 0], [0, 0, 0, 0], [{"wb": {0: 1}, "ins": [2]}], [([1, 2, 0, 0], [0, 0, 1, 1])]),
    (
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [{"wb": {1: 1, 3: 2}, "kept": [True, False]}],
        [([0, 1, 0, 0], [1, 0, 1, 1])],
    ),
    (
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [{"wb": {0: 1, 3: 2}, "kept": [True, False]}],
        [([1, 0, 0, 0], [0, 1, 1, 1])],
    ),
    (
        [5, 10, 15, 20],
        [2, 2, 2, 2],
        [{"wb": {1: 1, 3: 2}, "kept": [False, False]}],
        [([5, 10, 15, 20], [3, 3, 3, 3])],
    ),
    (
        [1, 2, 3, 4],
        [0, 2, 1, 3],
        [{"ins": [5, 6, 7], "mask": [True, False, True]}],
        [([1, 7, 3, 5], [1, 0, 2, 0])],
    ),
]


@pytest.mark.parametrize(("data", "age", "calls", "wanted"), NC_12)
def test_the_published_bookkeeping(data, age, calls, wanted):
    assert list(play(data, age, calls)) == wanted


def test_first_in_first_out_leaves_the_age_of_what_is_written_back():
    start = [5, 10, 15, 20], [1, 0, 1, 1], [{"wb": {1: 1, 3: 2}}]
    assert list(play(*start, fifo=True)) == [([5, 1, 15, 2], [2, 1, 2, 2])]
    assert list(play(*start)) == [([5, 1, 15, 2], [2, 0, 2, 0])]


def test_which_items_are_there():
    """Golden vector NC-13, on one key; ids of 63 bits."""
    ring = Ring(9)
    ring.put(torch.arange(7), tensor([0, 1, 2, 3, 20, 30, 2**62]), 0)
    found = ring.slots(tensor([0, 1, 3, 8, 9]))
    assert (found < 0).tolist() == [False, False, False, True, True]
    assert ring.slots(tensor([[2**62, -1], [2**62 - 1, 20]])).tolist() == [[6, -1], [-1, 4]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=12))
def test_a_ring_holds_the_last_items(batches):
    """As a dictionary in order of arrival does."""
    ring, model, when = Ring(5), OrderedDict(), 0
    for batch in batches:
        for item in batch:
            when += 1
            slot = ring.slots(tensor([item]))
            if int(slot) >= 0:
                ring.touch(slot, when)
            else:
                ring.put(ring.leaving(1), tensor([item]), when)
            model[item] = when
            model.move_to_end(item)
            while len(model) > 5:
                model.popitem(last=False)
    held = ring.held[ring.held >= 0]
    assert sorted(held.tolist()) == sorted(model)
    assert {int(i): int(ring.touched[ring.slots(i[None])]) for i in held} == model
