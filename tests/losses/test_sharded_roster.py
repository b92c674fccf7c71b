"""K processes are one process with a batch K times as large: every case of the roster, by DDP."""

import processes
import pytest
import sharded_training
import torch
from pace import fast

WORLDS = [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
OTHERS = [name for name in sharded_training.CASES if name.endswith(sharded_training.OTHER_DRAWS)]
REFUSED = list(sharded_training.REFUSED)
EXACT = [name for name in sharded_training.CASES if name not in (*OTHERS, *REFUSED)]


@pytest.fixture(scope="module", params=WORLDS)
def trained(request, tmp_path_factory):
    """What one process found, and each of several; of the cases that any test asks for."""
    folder, world = tmp_path_factory.mktemp("sharded"), request.param
    here = [
        each for each in request.session.items if getattr(each, "module", None) is request.module
    ]
    names = sorted({each.callspec.params["name"] for each in here})
    processes.run(sharded_training.__file__, folder, 1, *names)
    processes.run(sharded_training.__file__, folder, world, *names)
    one = torch.load(folder / "0-of-1.pt")
    return one, [torch.load(folder / f"{rank}-of-{world}.pt") for rank in range(world)]


FAST = [name for name in EXACT if not name.startswith(("half_", "low_"))]
FAST += ["half_cached", "half_shared_cached", "low_cached", "low_shared_cached"]


@pytest.mark.parametrize("name", fast(EXACT, *FAST))
def test_several_processes_are_one(trained, name):
    """The same items encoded, the same loss and gradients, the same rows, three steps on end."""
    one, several = trained[0][name], [found[name] for found in trained[1]]
    for step in range(sharded_training.STEPS):
        encoded = torch.cat([found["encoded"][step] for found in several])
        assert torch.equal(encoded.unique(), one["encoded"][step].sort().values)
        losses = torch.stack([found["losses"][step] for found in several])
        torch.testing.assert_close(losses.mean(), one["losses"][step], rtol=0, atol=1e-10)
        for found in several:
            for mine, its in zip(found["gradients"][step], one["gradients"][step], strict=True):
                torch.testing.assert_close(mine, its, rtol=0, atol=1e-10)
    assert any(bool(each.any()) for each in one["gradients"][0])
    if "rows" in one:
        check_rows(one["rows"], [found["rows"] for found in several])
    assert [found["passes"] for found in several] == [one["passes"]] * len(several)
    assert one["passes"] or not name.startswith("low_")


def check_rows(whole, shards):
    """Together they have the rows of one process, and about as many each."""
    ids, rows, valid = (torch.cat(parts) for parts in zip(*shards, strict=True))
    order = ids.argsort()
    assert torch.equal(ids[order], whole[0])
    torch.testing.assert_close(rows[order], whole[1], rtol=0, atol=1e-10)
    assert torch.equal(valid[order], whole[2])
    sizes = [len(shard[0]) for shard in shards]
    assert max(sizes) - min(sizes) <= 2 * 128


@pytest.mark.parametrize("name", fast(OTHERS, "dynamic_index", "rf_softmax", "low_dynamic_index"))
def test_other_draws_than_those_of_one_process_train_all_alike(trained, name):
    """Their law is tried in the processes themselves."""
    first, *others = (found[name] for found in trained[1])
    for other in others:
        for mine, its in zip(first["gradients"], other["gradients"], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, its, strict=True))
    assert all(loss.isfinite() for loss in first["losses"])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shared_is_refused_by_name(trained, name):
    assert all("process" in found[name] for found in trained[1])


@pytest.mark.parametrize("name", ["cached", "shared_cached", "joined", "half_cached"])
def test_encoding_is_dealt_out_evenly(trained, name):
    """That of a step, and that of a refresh: no item is encoded by two."""
    for step in range(sharded_training.STEPS):
        one = len(trained[0][name]["encoded"][step])
        counts = {len(found[name]["encoded"][step]) for found in trained[1]}
        assert counts == {-(-one // len(trained[1]))}
    renewed = sum(found[name]["renewed"] for found in trained[1])
    assert renewed == trained[0][name]["renewed"]
