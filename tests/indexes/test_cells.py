"""Members of clusters that move: nobody else is looked at, and where they lie decides nothing."""

import pytest
import torch

from negcache.indexes.cells import Cells


def check(cells, labels):
    """Every slot of a cluster once, at its own place; as it would be saved and read again."""
    assert torch.equal(cells.labels.long(), labels)
    assert torch.equal(cells.sizes, torch.bincount(labels + 1, minlength=len(cells.sizes) + 1)[1:])
    members, starts = cells.members, cells.sizes.cumsum(0) - cells.sizes
    assert torch.equal(labels[members], torch.arange(len(starts)).repeat_interleave(cells.sizes))
    assert torch.equal(starts[labels[members]] + cells.inside[members], torch.arange(len(members)))
    assert (cells.inside[labels < 0] == -1).all()
    again = Cells.of(**cells.state_dict())
    assert torch.equal(again.members, members)
    return again


@pytest.mark.parametrize("seed", range(12))
def test_members_are_where_they_were_sent_whatever_moved_before(seed):
    """Some steps send all to one cluster, or to none; a twin that was saved on the way agrees."""
    noise = torch.Generator().manual_seed(seed)
    slots, groups = (int(torch.randint(1, most, (), generator=noise)) for most in (60, 8))
    labels = torch.randint(-1, groups, (slots,), generator=noise)
    cells = Cells(labels, groups)
    twin = check(cells, labels)
    for step in range(15):
        moved = torch.randperm(slots, generator=noise)[: step * slots // 14]
        there = torch.randint(-1, groups, (1 + len(moved),), generator=noise)
        there = there[:1].expand(len(moved)) if step % 3 == 0 else there[1:]
        for each in (cells, twin):
            each.move(moved, there)
        labels[moved] = there
        again = check(cells, labels)
        assert torch.equal(twin.members, cells.members)
        twin = again if step % 4 == 0 else twin


def test_members_begin_in_the_order_of_slots_and_the_last_takes_the_place_of_who_leaves():
    cells = Cells(torch.tensor([1, 0, 1, -1, 1, 1]), 2)
    assert cells.members.tolist() == [1, 0, 2, 4, 5]
    cells.move(torch.tensor([2, 3]), torch.tensor([0, 1]))
    assert cells.members.tolist() == [1, 2, 0, 5, 4, 3]


@pytest.mark.parametrize("count", [1_000, 30_000])
def test_a_move_touches_those_that_move_and_as_many_again(count):
    """Not the others, however many: 200 moves touch at most 400 members; clusters that outgrow
    their room are copied, which comes to less than twice that."""
    noise = torch.Generator().manual_seed(0)
    groups = round(4 * count**0.5)
    cells = Cells(torch.randint(groups, (count,), generator=noise), groups)
    cells.touched = 0
    for _ in range(20):
        moved = torch.randperm(count, generator=noise)[:200]
        cells.move(moved, torch.randint(groups, (200,), generator=noise))
    assert 20 * 200 < cells.touched < 2 * 20 * 400


def test_room_doubles_and_idle_room_is_bounded():
    """Most go to one cluster and some to all the others, while members are laid out anew."""
    labels = torch.arange(100) % 10
    cells, laid_out = Cells(labels, 10), 0
    for step in range(60):
        there = torch.full((100,), step % 10)
        there[step % 7 :: 7] = torch.arange(len(there[step % 7 :: 7])) % 10
        before = cells._end
        cells.move(torch.arange(100), there)
        laid_out += cells._end < before
        check(cells, there)
        assert cells._end <= 4 * 110 + 2 * 100
    assert laid_out > 2
    assert cells.touched < 60 * 500
