"""K processes are one: settings of a loss, wrappers of towers, heads, and what is refused."""

import processes
import pytest
import sharded_settings
import torch
from torch import tensor

from negcache.estimators import cached_partition, softmax_loss
from negcache.messages import Draw
from negcache.packing import pack
from negcache.testing import reference

SUMMED = ("none", "sum")
"""What a process has is not divided by its queries."""

MEANS = [
    name
    for name in (*sharded_settings.DDP, *sharded_settings.FSDP)
    if name not in (*SUMMED, "evaluated")
]


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory):
    """What one process found, and each of two, which have seen refused what cannot be shared."""
    folder = tmp_path_factory.mktemp("settings")
    here = [
        each for each in request.session.items if getattr(each, "module", None) is request.module
    ]
    names = sorted({name for each in here for name in each.callspec.params.values()})
    for world in (1, 2):
        processes.run(sharded_settings.__file__, folder, world, *names)
    return [torch.load(folder / f"{which}.pt") for which in ("0-of-1", "0-of-2", "1-of-2")]


def close(ours, theirs, atol=1e-10):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def check_gradients(found, wanted, factor=1):
    for step, its in enumerate(wanted["gradients"]):
        assert any(bool(each.any()) for each in its)
        for mine, theirs in zip(found["gradients"][step], its, strict=True):
            close(mine * factor, theirs)


@pytest.mark.parametrize("name", MEANS)
def test_two_processes_are_one(trained, name):
    one, *two = (found[name] for found in trained)
    for step, loss in enumerate(one["losses"]):
        close(torch.stack([found["losses"][step] for found in two]).mean(), loss)
    for found in two:
        check_gradients(found, one)


@pytest.mark.parametrize("name", SUMMED)
def test_sums_are_those_of_each_process(trained, name):
    """DDP divides their gradients by the number of processes, as it does for torch's losses."""
    one, *two = (found[name] for found in trained)
    for step, loss in enumerate(one["losses"]):
        losses = [found["losses"][step] for found in two]
        close(torch.cat(losses) if loss.ndim else sum(losses), loss)
    check_gradients(two[0], one, factor=2)


@pytest.mark.parametrize(("name", "straight"), [("evaluated", "cached")])
def test_an_evaluation_leaves_the_run_as_it_is(trained, name, straight):
    for found in trained:
        assert all(map(torch.equal, found[name]["losses"], found[straight]["losses"]))
        check_gradients(found[name], found[straight])


@pytest.mark.parametrize("name", ["forgetful"])
def test_a_forgotten_step_is_named_and_can_be_made_up_for(trained, name):
    """By the process that went on, and by the one that waits for it; nothing has changed yet."""
    _, *two = (found[name] for found in trained)
    for found in two:
        (said,) = found["said"]
        assert said == (
            "Expected 2 steps of the loss on every process; got 1 on process 1. "
            "To fix this: call loss_fn.step() on every process."
        )


@pytest.mark.parametrize("name", ["coordinates"])
def test_a_low_rank_cache_of_several_is_one(trained, name):
    """What they look at, hear of, hold and save; and what a larger one makes of it."""
    one, *two = every = [found[name] for found in trained]
    for planned in ("filled", "sampled", "back", "grown", "gone"):
        theirs = torch.cat([found[planned] for found in two])
        assert torch.equal(theirs.sort().values, one[planned].sort().values), planned
    assert {len(found["sampled"]) for found in two} == {30}
    assert one["gone"].sort().values.tolist() == [0, 1, 5, 300, 699]
    assert one["back"].tolist() == [1]
    assert [found["files"] for found in two] == [
        ["coordinates, rows 0 to 384"],
        ["coordinates, rows 384 to 700"],
    ]
    for found in every:
        assert len(found["state"].pop("observers")) == (1 if found is one else 2)
        assert found["state"].pop("cosine") == pytest.approx(one["cosine"], abs=1e-10)
    (tree, tensors), *others = (pack(found["state"]) for found in every)
    for its, theirs in others:
        assert its == tree
        for key in tensors:
            close(theirs[key], tensors[key])
    for whole, *parts in zip(*(found["whole"] for found in every), strict=True):
        close(torch.cat(parts), whole)
    assert [found["left"] for found in two] == [0, 0]
    assert sum(found["held"] for found in two) == one["held"]


@pytest.mark.parametrize("name", ["stream"])
def test_a_stream_of_several_is_one(trained, name):
    """Items enter, leave and are weighted alike; each process has the rows of its slots."""
    for one, *two in zip(*(found[name] for found in trained), strict=True):
        close(torch.stack([found["losses"] for found in two]).mean(0), one["losses"])
        for found in two:
            assert torch.equal(found["held"], one["held"])
            for mine, its in zip(found["weights"], one["weights"], strict=True):
                close(mine, its)
        for what in ("rows", "written", "log_weights"):
            if one[what] is not None:
                close(torch.cat([found[what] for found in two]), one[what])


@pytest.mark.parametrize("name", ["floor"])
def test_a_floor_of_several_processes_has_the_law_of_one(trained, name):
    one, *two = (found[name]["log_q"].exp() for found in trained)
    close(one.sum(dim=1), torch.full((len(one),), 0.85).double(), 1e-3)  # half of the floor is lost
    for log_q in two:
        close(log_q, one, 1e-12)


@pytest.mark.parametrize("name", ["mined"])
def test_the_nearest_clusters_are_those_of_all_processes(trained, name):
    for found in trained[1:]:
        assert torch.equal(found[name]["process"], torch.arange(2)[:, None].expand(-1, 20))


@pytest.mark.parametrize("name", ["golden"])
def test_shards(trained, name):
    """NC-10: four rows in two shards are one cache of four rows."""
    one, *two = (found[name] for found in trained)
    masses = tensor([[-0.686738312, 2.313261688], *[[2.313261688, -0.686738312]] * 3]).double()
    losses = [[4.374523, 0.890350], [0.890350, 0.890350]]
    surrogates = [[0.987406, -2.357952], [-0.589488, -2.357952]]
    for rank, found in enumerate(two):
        close(found["masses"], masses, 1e-6)
        close(found["log_z"], one["log_z"].view(2, 2)[rank])
        assert found["drawn"].tolist() == [[1], [-2]]
        positive, negative = 2 * found["queries"][:, 0], found["queries"] * found["drawn"]
        zeros = torch.zeros_like(negative)
        draw = Draw(torch.arange(2), tensor([[0], [1]]), zeros, found["log_z"], zeros)
        loss = softmax_loss(positive, cached_partition(negative, draw))
        close(loss, tensor(losses[rank]).double(), 1e-6)
        ours = reference.surrogate(positive, negative, found["log_z"])
        close(ours, tensor(surrogates[rank]).double(), 1e-6)
