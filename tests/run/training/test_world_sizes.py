"""A run that goes on with other numbers of processes is the run that never stopped."""

import shutil

import processes
import pytest
import resharded_training
import torch

from negcache.errors import InputError
from negcache.packing import pack
from negcache.run.training import Checkpoints

CHAINS = [[1, 2, 1], pytest.param([1, 4, 2, 3, 1], marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=CHAINS, ids=str)
def runs(request, tmp_path_factory):
    """The folder of the straight runs, and that of those which were stopped after each step."""
    straight, stopped = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("stopped")
    processes.run(resharded_training.__file__, straight, 1, str(len(request.param)))
    for world in request.param:
        processes.run(resharded_training.__file__, stopped, world, "1")
    return straight, stopped


@pytest.mark.parametrize("name", resharded_training.NAMES)
def test_other_numbers_of_processes_go_on_with_the_same_run(runs, name):
    states = [Checkpoints(folder / name).load() for folder in runs]
    assert states[0]["step"] == states[1]["step"]
    for state in states:
        state["own"]["store"].pop("observers", None)  # summed anew by other processes
    cosines = [state["own"]["store"].pop("cosine", None) for state in states]
    assert cosines[0] == pytest.approx(cosines[1], abs=1e-10)
    (tree, tensors), (other_tree, others) = (pack(state) for state in states)
    assert tree == other_tree
    assert tensors.keys() == others.keys()
    for key, tensor in tensors.items():
        torch.testing.assert_close(others[key], tensor, rtol=0, atol=1e-10)


def test_a_process_reads_its_own_rows_alone(runs):
    """Of a checkpoint that several wrote, and that one reads."""
    kept = Checkpoints(runs[1] / "cached")
    whole = kept.load()["own"]["store"]["table"]
    names = [name for name in whole if name.startswith("rows ")]
    some = kept.load(lambda name: not name.startswith("rows ") or name == names[1])
    assert [name for name in some["own"]["store"]["table"] if name in names] == names[1:2]


def test_a_missing_file_of_a_checkpoint_is_named(runs, tmp_path):
    shutil.copytree(runs[1] / "cached", tmp_path / "copy")
    kept = Checkpoints(tmp_path / "copy")
    written_by_two = next(
        path for path in kept.paths() if len(list(path.glob("*.safetensors"))) > 1
    )
    next(written_by_two.glob("*00002*.safetensors")).unlink()
    with pytest.raises(InputError, match=r"intact checkpoint.*shard-00002"):
        kept.load_step(int(written_by_two.name[-9:]))
