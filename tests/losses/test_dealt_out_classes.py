"""A table of classes dealt out among processes is one table: every case of the roster, by DDP."""

import dealt_out_training as training
import processes
import pytest
import torch
from pace import fast

WORLDS = [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.fixture(scope="module", params=WORLDS)
def trained(request, tmp_path_factory):
    """What one process found, and each of several; of the cases that any test asks for."""
    folder, world = tmp_path_factory.mktemp("dealt-out"), request.param
    here = [
        each for each in request.session.items if getattr(each, "module", None) is request.module
    ]
    names = sorted({each.callspec.params["name"] for each in here})
    for each in (1, world):
        processes.run(training.__file__, folder, each, *names)
    one = torch.load(folder / "0-of-1.pt")
    return one, [torch.load(folder / f"{rank}-of-{world}.pt") for rank in range(world)]


FAST = (
    "uniform", "cached", "shared_cached", "mixture", "quadratic", "full", "default", "sparse",
    "lagging", "cached_ignored", "cached_several", "cached_weight", "uniform_empty",
    "fsdp_fully_shard",
)  # fmt: skip


@pytest.mark.parametrize("name", fast(training.EXACT, *FAST))
def test_several_processes_are_one(trained, name):
    """Equal draws, losses, gradients and rows, three steps on end; equal answers after them."""
    one, several = trained[0][name], [found[name] for found in trained[1]]
    assert torch.equal(torch.cat([found["begun"] for found in several]), one["begun"])
    for step in range(training.STEPS):
        close(torch.stack([found["losses"][step] for found in several]).mean(), one["losses"][step])
        for found in several:
            assert torch.equal(found["drawn"][step], one["drawn"][step])
            for mine, its in zip(
                found["gradients"][step][1:], one["gradients"][step][1:], strict=True
            ):
                close(mine, its)
        close(
            torch.cat([found["gradients"][step][0] for found in several]), one["gradients"][step][0]
        )
        close(torch.cat([found["rows"][step] for found in several]), one["rows"][step])
    for what in ("exact", "log_prob", "scores", "sums"):
        if what in one:
            close(torch.cat([found[what] for found in several]), one[what])
    if name.startswith("sparse"):  # where no other rows move than those looked up
        close(one["sums"], one["summed_now"])
    assert torch.equal(torch.cat([found["best"] for found in several]), one["best"])
    assert one["gradients"][0][0].any()
    assert all(len(found["begun"]) < training.N for found in several)


@pytest.mark.parametrize("name", fast(training.OTHERS, "dynamic_index", "rf_softmax"))
def test_floors_and_clusters_of_each_process_train_all_alike(trained, name):
    """Other draws than one process has; their laws are tried over stores that are dealt out."""
    first, *others = (found[name] for found in trained[1])
    for other in others:
        assert all(map(torch.equal, first["drawn"], other["drawn"]))
        for mine, its in zip(first["gradients"], other["gradients"], strict=True):
            assert all(map(torch.equal, mine[1:], its[1:]))
    assert all(loss.isfinite() for loss in first["losses"])


@pytest.mark.parametrize("name", training.REFUSED)
def test_what_cannot_be_shared_is_refused_by_name(trained, name):
    assert all("process" in found[name] for found in trained[1])
