"""Runs over streams, as a user types them: trained, stopped, resumed, measured, planned."""

import json
import multiprocessing
import os
import signal

import pytest
import torch
import wordnet_slice
from safetensors.torch import load_file

from benchmarks.soak import result
from negcache.run.cli import runs

ITEMS, STEPS, SIZE = 200, 8, 48
CONFIG = """\
steps = {steps}
batch_size = 16
device = "cpu"
log_every = 3
checkpoint_every = 4
{top}
[data]
pairs = "{folder}/pairs/*.parquet"
items = "{folder}/items"
items_per_step = 8
window = 3
vocab_size = 400
{data}
[tower]
dim = 8
[cache]
kind = "streaming"
size = {size}
row_weight = "dedup"
refresh_rows = 4
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A folder with ``task``, the streams ``pairs`` and ``items``, and two configs."""
    folder = tmp_path_factory.mktemp("streams")
    wordnet_slice.write_slice(folder / "task", ITEMS)
    wordnet_slice.write_streams(folder / "task", folder)
    settings = {"steps": STEPS, "size": SIZE, "folder": folder}
    source = f'source = "{folder / "task"}"'
    dev = 'eval_every = 4\nsave_best = "mrr10"'
    (folder / "measured.toml").write_text(CONFIG.format(top=dev, data=source, **settings))
    (folder / "alone.toml").write_text(CONFIG.format(top="", data="", **settings))
    return folder


def tensors(run):
    """All tensors of the newest checkpoint."""
    (*_, newest) = sorted((run / "checkpoints").glob("step-*"))
    found = {}
    for path in newest.glob("*.safetensors"):
        found |= load_file(path)
    return found


def assert_same(one, other):
    """Two runs that came to the same, bit for bit."""
    before, after = tensors(one), tensors(other)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    assert result(one) == result(other)


@pytest.fixture(scope="module")
def straight(shards):
    """Both runs, trained to the end."""
    from typer.testing import CliRunner

    from negcache.run.cli.app import app

    for name in ("measured", "alone"):
        words = ["train", str(shards / f"{name}.toml"), "--out", str(shards / name)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (done.output, done.exception)
        assert f"{STEPS} steps done" in done.stdout
    return shards


def test_train_evaluate_search(straight, call):
    run = straight / "measured"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == [3, 6, 8]
    assert [line["step"] for line in lines if "dev/mrr10" in line] == [4, 8]
    assert 16 < trained[-1]["encoded_grad_per_step"] <= 32
    assert trained[-1]["encoded_nograd_total"] > STEPS * 4
    done = call("evaluate", run, "--split", "test")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "mrr10" in done.stdout
    done = call("search", run, "a small animal", "-k", "3")
    assert done.stdout.count("│") == 2 * 3 + 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["measured", "alone"])
def test_stopped_and_resumed_equals_never_stopped(
    straight, shards, call, tmp_path, monkeypatch, name, workers
):
    """By Ctrl-C in the middle of a batch's arrival; also with other workers than before."""
    run, seen = tmp_path / "run", []
    receive = runs.Trainer._one_step

    def one_step(self, *more):
        seen.append(self.step)
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return receive(self, *more)

    monkeypatch.setattr(runs.Trainer, "_one_step", one_step)
    words = ["--set", f"data.workers={workers}", "--out", run]
    stopped = call("train", shards / f"{name}.toml", *words)
    assert stopped.exit_code == 130, (stopped.output, stopped.exception)
    assert f"negcache resume {run}" in stopped.stderr
    assert seen == [0, 1, 2]
    done = call("resume", run)
    assert done.exit_code == 0, (done.output, done.exception)
    assert seen == list(range(STEPS))
    assert_same(straight / name, run)
    assert not multiprocessing.active_children()
