"""Runs over pairs of which several have one query: no item of the others is its negative."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import wordnet_slice
from pace import slow
from pyarrow import parquet
from safetensors.torch import load_file
from stream_config import write_config

from negcache import losses
from negcache.run.cli import runs
from negcache.run.data.streams import hash_ids

ITEMS, STEPS = 160, 8


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A config for each of two streams: queries known by their text, and by ids."""
    folder = tmp_path_factory.mktemp("streams")
    wordnet_slice.write_slice(folder / "task", ITEMS)
    wordnet_slice.write_streams(folder / "task", folder)
    (folder / "numbered").mkdir()
    first = 0
    for path in sorted((folder / "pairs").iterdir()):
        columns = parquet.read_table(path).to_pydict()
        places = [first + row for row in range(len(columns["item"]))]
        numbers = {"query_id": [place // 4 for place in places]}
        _write(folder / "numbered" / path.name, columns | numbers)
        alike = {"query": [f"hill or mountain {place // 4}" for place in places]}
        _write(path, columns | alike)
        first += len(places)
    for name in ("pairs", "numbered"):
        write_config(folder / f"{name}.toml", steps=STEPS, size=96, pairs=name, cache="")
    return folder


def _write(path, columns):
    parquet.write_table(pa.table(columns), path, row_group_size=20, write_page_checksum=True)


def positives(shards, name):
    """The items of each query as the files have them, by the ids of a batch."""
    found = {}
    for path in sorted((shards / name).iterdir()):
        columns = parquet.read_table(path).to_pydict()
        queries = columns.get("query_id") or hash_ids(columns["query"]).ids.tolist()
        items = hash_ids(columns["item"]).ids.tolist()
        for query, item in zip(queries, items, strict=True):
            found.setdefault(query, set()).add(item)
    assert max(map(len, found.values())) == 4
    return found


@pytest.fixture
def drawn(monkeypatch):
    """For each query of each batch: its id, and the items that stood as its negatives."""
    seen, ids = [], []
    forward, draw = losses.SoftmaxLoss.forward, losses.draw_negatives

    def forwarding(self, queries, positives, query_ids=None, *more, **named):
        ids[:] = query_ids.tolist()
        return forward(self, queries, positives, query_ids, *more, **named)

    def drawing(*words):
        draws = draw(*words)
        for each, _ in draws:
            stands = each.log_weight.expand(len(ids), -1) > -torch.inf
            columns = each.columns
            items = each.ids.expand(len(ids), -1) if columns is None else each.ids[columns]
            for query, row, own in zip(ids, items, stands, strict=True):
                seen.append((query, row[own].tolist()))
        return draws

    monkeypatch.setattr(losses.SoftmaxLoss, "forward", forwarding)
    monkeypatch.setattr(losses, "draw_negatives", drawing)
    return seen


def false_negatives(drawn, known):
    return sum(len(known[query].intersection(items)) for query, items in drawn)


SAMPLERS = {
    "cached": ["sampler.num_negatives=4"],
    "each its own": ["sampler.name=cached", "sampler.shared=false", "sampler.num_negatives=32"],
    "distinct": ["sampler.name=distinct", "sampler.num_negatives=32"],
    "quadratic": ["sampler.name=quadratic", "sampler.num_negatives=4"],
    "in_batch": ["sampler.name=in_batch"],
}


FAST = {("cached", "pairs"), ("in_batch", "numbered")}
CASES = [
    case if case in FAST else slow(*case)
    for case in [(sampler, name) for sampler in SAMPLERS for name in ("pairs", "numbered")]
]


@pytest.mark.parametrize(("sampler", "name"), CASES)
def test_no_known_positive_is_drawn_for_its_query(shards, call, drawn, tmp_path, sampler, name):
    """Not even once; with the key off it happens, so the stream has such items."""
    known = positives(shards, name)
    options = [word for each in SAMPLERS[sampler] for word in ("--set", each)]
    for told, looks in (("true", True), ("false", False)):
        drawn.clear()
        words = *options, "--set", f"data.known_positives={told}", "--out", tmp_path / told
        done = call("train", shards / f"{name}.toml", *words)
        assert done.exit_code == 0, (done.output, done.exception)
        assert len(drawn) == STEPS * 16
        assert sum(len(items) for _, items in drawn) > STEPS * 16 * 4
        assert (false_negatives(drawn, known) == 0) is looks


def test_a_resumed_run_is_the_one_that_never_stopped(shards, call, tmp_path, monkeypatch):
    """Bit for bit, though its table was lost meanwhile, and workers read the pairs."""
    config, cache = shards / "pairs.toml", Path(os.environ["NEGCACHE_CACHE"])
    assert call("train", config, "--out", tmp_path / "straight").exit_code == 0
    one_step = runs.Trainer._one_step

    def stopping(self, *more):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return one_step(self, *more)

    with monkeypatch.context() as patched:
        patched.setattr(runs.Trainer, "_one_step", stopping)
        words = "--set", "data.workers=2", "--out", tmp_path / "run"
        assert call("train", config, *words).exit_code == 130
    (table,) = _tables(cache, shards)
    before = {path.name: path.read_bytes() for path in table.iterdir()}
    shutil.rmtree(table)
    done = call("resume", tmp_path / "run")
    assert done.exit_code == 0, (done.output, done.exception)
    assert {path.name: path.read_bytes() for path in table.iterdir()} == before
    assert_same(tmp_path / "straight", tmp_path / "run")


def _tables(cache, shards):
    """That of the pairs by text: it has so many queries."""
    expected = sorted(positives(shards, "pairs"))
    for path in cache.glob("streams/known-*"):
        if np.load(path / "queries.npy").tolist() == expected:
            yield path


def assert_same(one, other):
    (before, after) = (_tensors(run) for run in (one, other))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


def _tensors(run):
    (*_, newest) = sorted((run / "checkpoints").glob("step-*"))
    found = {}
    for path in newest.glob("*.safetensors"):
        found |= load_file(path)
    return found


def test_it_makes_a_difference_and_none_is_made_where_towers_alone_are_wanted(
    shards, call, tmp_path, monkeypatch
):
    monkeypatch.setenv("NEGCACHE_CACHE", str(tmp_path / "cache"))
    config, off = shards / "pairs.toml", ("--set", "data.known_positives=false")
    assert call("train", config, *off, "--out", tmp_path / "off").exit_code == 0
    assert not [*tmp_path.glob("cache/streams/*")]
    assert call("train", config, "--out", tmp_path / "on").exit_code == 0
    assert len([*tmp_path.glob("cache/streams/known-*")]) == 1
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "on", tmp_path / "off")
    shutil.rmtree(tmp_path / "cache")
    assert call("export", tmp_path / "on", tmp_path / "out").exit_code == 0
    assert not [*tmp_path.glob("cache/streams/*")]


def test_the_plan_says_what_is_mapped_and_sorted(shards, call, refused, tmp_path):
    config, off = shards / "pairs.toml", ("--set", "data.known_positives=false")
    told = " ".join(call("plan", config).stdout.split())
    assert "Known positives of the pairs (at most 3.00 KiB of the cache folder) are mapped" in told
    assert "in 8.00 KiB of memory and at most 5.00 KiB of that disk" in told
    assert "Known positives" not in call("plan", config, *off).stdout
    task = tmp_path / "task.toml"
    task.write_text(f'steps = 2\ndevice = "cpu"\ndata = {{ source = "{shards / "task"}" }}\n')
    assert "data.known_positives only with data.pairs" in refused("train", task, *off)
