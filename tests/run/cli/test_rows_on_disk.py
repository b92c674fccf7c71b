"""Runs with ``cache.on_disk``: as in memory, stopped and gone on with, moved, measured, planned."""

import json
import os
import shutil
import signal

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from typer.testing import CliRunner

from benchmarks import soak_streaming
from negcache.run.cli import runs
from negcache.run.cli.app import app
from negcache.run.cli.plan import plan
from negcache.run.cli.planning import memory
from negcache.run.cli.planning.capacity import Capacity
from negcache.run.cli.planning.memory import memory_parts
from negcache.run.cli.planning.planned_run import planned_run
from negcache.run.training import load_config
from negcache.stores.undo_journal import UndoJournal

ON_DISK = ("--set", "cache.on_disk=true")
EVERY = ("--set", "checkpoint_every=2", "--set", "eval_every=2", "--set", "save_best=mrr10")


def ends(run):
    """What was learned and logged; of the rows their clock alone."""
    (*_, newest) = sorted((run / "checkpoints").glob("step-*"))
    found = {}
    for path in newest.glob("*.safetensors"):
        found |= load_file(path)
    held = {name: each.tolist() for name, each in found.items() if "/table/" not in name}
    return held, (run / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def in_memory(small):
    """The same run with its rows in memory."""
    AcceleratorState._reset_state(True)  # made before the fixture that cleans each test
    words = ["train", str(small / "small.toml"), *EVERY, "--out", str(small / "in-memory")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    return small / "in-memory"


def test_a_run_is_that_in_memory_also_stopped_moved_and_measured(
    small, in_memory, call, refused, tmp_path, monkeypatch
):
    """Measuring in between, and with a checkpoint of before, touches no row."""
    run, step = tmp_path / "run", runs.Trainer._one_step

    def one_step(self, *more):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *more)

    monkeypatch.setattr(runs.Trainer, "_one_step", one_step)
    stopped = call("train", small / "small.toml", *ON_DISK, *EVERY, "--out", run)
    assert stopped.exit_code == 130, (stopped.output, stopped.exception)
    rows = (run / runs.ROWS).read_bytes()
    for checkpoint in ("2", "newest"):
        done = call("evaluate", run, "--checkpoint", checkpoint)
        assert done.exit_code == 0, (done.output, done.exception)
    assert (run / runs.ROWS).read_bytes() == rows
    moved = shutil.move(run, tmp_path / "moved")
    done = call("resume", moved)
    assert done.exit_code == 0, (done.output, done.exception)
    assert ends(tmp_path / "moved") == ends(in_memory)
    shutil.rmtree(tmp_path / "moved" / "cache")
    assert "copy the whole folder of a run" in refused("resume", moved)


def test_what_cannot_be_is_refused(small, refused, tmp_path):
    out = ("--out", tmp_path / "run")
    for sampler in ("auto", "uniform", "in_batch", "full", "popularity"):
        for command, more in (("train", out), ("plan", ())):
            name = f"sampler.name={sampler}"
            told = refused(command, small / "small.toml", *ON_DISK, "--set", name, *more)
            assert "cache.on_disk with a sampler that draws from cached rows" in told
    told = refused("train", small / "small.toml", *ON_DISK, "--set", "keep_checkpoints=5", *out)
    assert "keep_checkpoints of at most 4 with cache.on_disk" in told
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_begin_leaves_no_folder(small, refused, tmp_path, monkeypatch):
    def full(handle, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    told = refused("train", small / "small.toml", *ON_DISK, "--out", tmp_path / "run")
    assert "No space left on device" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_plan_is_what_lies_there(small, tmp_path, monkeypatch, dtype):
    words = ["cache.on_disk=true", f"cache.dtype={json.dumps(dtype)}", "checkpoint_every=2"]
    run = runs.start(load_config(small / "small.toml", words), tmp_path / "run")
    planned = planned_run(run.config, run.source.facts(), torch.device("cpu"))
    parts = {part.name: part for part in memory_parts(planned)}
    assert run.trainer.run() is None
    table = run.trainer.parts.loss_fn.store.table
    assert parts["cache"].bytes == 0
    assert parts["cache: files of rows"].bytes == (run.folder / runs.ROWS).stat().st_size
    kept = table.valid.nbytes + table.journal.saved.nbytes
    assert parts["cache: which rows are valid"].bytes == kept
    journals = sum(each.stat().st_size for each in (run.folder / "cache").glob("*.undo-*"))
    assert 0 < parts["cache: undo journals"].bytes <= journals
    saved = sum(path.stat().st_size for path in run.trainer.checkpoints.paths()[-1].iterdir())
    assert memory.checkpoint_bytes(planned) < saved < memory.checkpoint_bytes(planned) + 30_000
    assert isinstance(table.journal, UndoJournal)


def test_the_plan_names_files(small, call, tmp_path, capsys):
    done = call("plan", small / "small.toml", *ON_DISK)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "Store: dense in files, as cache.on_disk says; its 240 rows take" in done.stdout
    assert "cache: undo journals" in done.stdout
    config = load_config(small / "small.toml", ["tower.dim=65"])
    scarce = lambda device, folder: Capacity(None, 30_000, 1 << 30)  # noqa: E731
    with pytest.raises(Exception, match="bytes of memory"):
        plan(config, tmp_path / "run", 1, scarce)
    assert "Store: dense with cache.on_disk, as its 240 rows take" in capsys.readouterr().out


@pytest.mark.slow
def test_processes_over_a_stream_that_are_killed_end_as_if_nobody_had(monkeypatch):
    """As they start, inside a checkpoint, in the middle of a step; each with a file of rows."""
    monkeypatch.setenv("NEGCACHE_CACHE", "")  # its own, put back afterwards
    figures = soak_streaming.main(kills=3, steps=400, dtype="int8")
    assert figures["kills"] == 3
    assert figures["equal"]
