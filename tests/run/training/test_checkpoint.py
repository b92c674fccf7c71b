"""Checkpoints survive damage, full disks and half-finished writes."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch

from negcache import InputError
from negcache.run.training import Checkpoints

FILES = ("shard-00001-model-00001-of-00001.safetensors", "state.json", "manifest.json")


def state(step):
    return {"step": step, "rows": torch.full((4, 5), float(step)), "moments": {0: (0.9, None)}}


@pytest.fixture
def three(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    for step in (10, 20, 30):
        checkpoints.save(step, state(step))
    return checkpoints


def test_round_trip_and_the_newest_are_kept(three):
    three.save(40, state(40))
    assert [path.name[-2:] for path in three.paths()] == ["20", "30", "40"]
    loaded = three.load()
    assert loaded["moments"] == {0: (0.9, None)}
    assert torch.equal(loaded["rows"], state(40)["rows"])
    assert Checkpoints(three.folder / "none").load() is None


def test_no_pickle_anywhere(three):
    files = [path for path in three.folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["flipped", "cut", "missing"])
def test_damage_is_found_named_and_passed_over(three, name, how):
    path = three.paths()[-1] / name
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:1] + bytes([content[1] ^ 1]) + content[2:])
    with pytest.raises(InputError, match=f"damaged file .*step-000000030.*{name}.*--fall-back"):
        three.load()
    assert three.load(fall_back=True)["step"] == 20
    assert (three.folder / "step-000000030.0.damaged").is_dir()  # nothing is deleted
    assert three.load()["step"] == 20


def test_nothing_intact_is_told(three):
    for path in three.paths():
        (path / "state.json").write_text("{}")
    with pytest.raises(InputError, match="3 damaged ones"):
        three.load(fall_back=True)
    assert len(three.paths()) == 3


def test_left_overs_of_a_killed_write_are_no_checkpoint(three):
    aside = three.folder / ".step-000000040.part-0a1b2c3d-1"
    aside.mkdir()
    (aside / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"half")
    assert three.load()["step"] == 30
    three.save(40, state(40))
    assert not list(three.folder.glob(".step-*"))


def test_a_full_disk_leaves_the_old_one(tmp_path):
    script = """
        import resource, sys, torch
        from pathlib import Path
        from negcache import InputError
        from negcache.run.training import Checkpoints
        checkpoints = Checkpoints(Path(sys.argv[1]), keep=1)
        checkpoints.save(1, {"rows": torch.ones(100)})
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        for state in ({"rows": torch.ones(100_000)}, {"words": "x" * 100_000}):
            try:
                checkpoints.save(2, state)
            except InputError as error:
                print(error)
        assert checkpoints.load()["rows"].sum() == 100
        print([path.name for path in checkpoints.folder.iterdir()])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("make room on the disk") == 2
    assert done.stdout.splitlines()[-1] == "['step-000000001']"


def test_the_manifest_names_every_file(three):
    manifest = json.loads((three.paths()[-1] / "manifest.json").read_text())
    assert manifest["step"] == 30
    assert set(manifest["sha256"]) == set(FILES[:2])
