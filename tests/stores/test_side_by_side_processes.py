"""Caches side by side, dealt out among processes: one law, one run, one state."""

import processes
import pytest
import resharded_streams
import torch

WHAT = ("ids", "rows", "valid", "log_weights")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of runs by one process and by two: straight, resumed, and in turn. Laws are asked too."""
    folder = tmp_path_factory.mktemp("streams")
    of_each = [
        (1, ["one:5,1"]),
        (2, ["two:5", "resumed:3,2", "turns:2"]),
        (1, ["turns:2"]),
        (2, ["turns:2"]),
    ]
    for world, words in of_each:
        places = [f"{store}/{word}" for store in resharded_streams.STORES for word in words]
        laws = ["laws"] * (len(words) > 1)
        processes.run(resharded_streams.__file__, folder, world, *places, *laws)
    return folder


def found(place, step, world):
    """What each process had come to."""
    return [torch.load(place / f"{step}, {rank} of {world}") for rank in range(world)]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def check_one(several, one):
    """Some processes have come to what one has, and draw what it draws."""
    losses = torch.stack([each["losses"] for each in several]).mean(0)
    last = min(len(losses), len(one["losses"]))  # of their last legs
    close(losses[-last:], one["losses"][-last:])
    for what in WHAT:
        close(torch.cat([each[what] for each in several]), one[what])
    for each in several:
        assert torch.equal(each["drawn"], one["drawn"])
        close(each["log_weight"], one["log_weight"])
        for mine, its in zip(each["weights"], one["weights"], strict=True):
            close(mine, its)


@pytest.mark.parametrize("store", resharded_streams.STORES)
def test_two_processes_are_one(folder, store):
    (one,) = found(folder / store / "one", 5, 1)
    check_one(found(folder / store / "two", 5, 2), one)
    assert one["losses"][1:].all(), "there are negatives"
    assert one["drawn"].unique().numel() > 9


@pytest.mark.parametrize("store", resharded_streams.STORES)
def test_a_resumed_run_is_the_straight_one(folder, store):
    straight, resumed = (found(folder / store / name, 5, 2) for name in ("two", "resumed"))
    for its, mine in zip(straight, resumed, strict=True):
        assert torch.equal(mine["losses"], its["losses"][3:])
        for what in (*WHAT, "drawn", "log_weight"):
            assert torch.equal(mine[what], its[what]), what
        assert all(map(torch.equal, mine["weights"], its["weights"]))


@pytest.mark.parametrize("store", resharded_streams.STORES)
def test_other_numbers_of_processes_go_on_with_the_same_run(folder, store):
    """Two, then one, then two again."""
    (one,) = found(folder / store / "one", 6, 1)
    check_one(found(folder / store / "turns", 6, 2), one)


@pytest.mark.slow
def test_three_processes_go_on_with_what_two_began_and_one_with_theirs(folder):
    for world in (2, 3, 1):
        places = [f"{store}/three:2" for store in resharded_streams.STORES]
        processes.run(resharded_streams.__file__, folder, world, *places, *["laws"] * (world == 3))
    for store in resharded_streams.STORES:
        (one,) = found(folder / store / "one", 6, 1)
        check_one(found(folder / store / "three", 6, 1), one)
