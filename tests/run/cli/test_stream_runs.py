"""Runs over streams, as a user types them: trained, stopped, resumed, measured, planned."""

import json
import multiprocessing
import os
import re
import shutil
import signal

import processes
import pyarrow as pa
import pytest
import torch
import wordnet_slice
from pace import slow
from pyarrow import parquet
from safetensors.torch import load_file
from shards import damage
from stream_config import write_config

import negcache as nc
from benchmarks.soak import result
from negcache.run.cli import runs
from negcache.run.cli.planning import memory
from negcache.run.cli.planning.planned_run import planned_run
from negcache.run.cli.planning.work import work_of
from negcache.run.training import load_config

ITEMS, STEPS, SIZE = 200, 8, 48


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A folder with ``task``, the streams ``pairs`` and ``items``, and two configs."""
    folder = tmp_path_factory.mktemp("streams")
    wordnet_slice.write_slice(folder / "task", ITEMS)
    wordnet_slice.write_streams(folder / "task", folder)
    top, source = "log_every = 3\ncheckpoint_every = 4", f'source = "{folder / "task"}"'
    dev = f'{top}\neval_every = 4\nsave_best = "mrr10"'
    write_config(folder / "measured.toml", steps=STEPS, size=SIZE, top=dev, data=source)
    write_config(folder / "alone.toml", steps=STEPS, size=SIZE, top=top)
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
    assert trained[0]["staleness"] >= 0, "the first step has none, the others do"
    assert trained[-1]["encoded_nograd_total"] > STEPS * 4
    done = call("evaluate", run, "--split", "test")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "mrr10" in done.stdout
    done = call("search", run, "a small animal", "-k", "3")
    assert done.stdout.count("│") == 3 * 4


@pytest.mark.parametrize("workers", [slow(0), 2])
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


SAMPLERS = {
    "each its own": ["sampler.shared=false", "sampler.num_negatives=2"],
    "distinct": ["sampler.name=distinct", "sampler.num_negatives=2"],
    "head_tail": ["sampler.name=head_tail"],
    "quadratic": ["sampler.name=quadratic", "cache.row_weight=popularity"],
    "rf_softmax": ["sampler.name=rf_softmax", "cache.row_weight=uniform"],
    "in_batch": ["sampler.name=in_batch"],
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_other_samplers_draw_from_a_stream(shards, call, tmp_path, name):
    words = [*SAMPLERS[name], "steps=3", "accumulation=2"]
    options = [option for each in words for option in ("--set", each)]
    done = call("train", shards / "alone.toml", *options, "--out", tmp_path / "run")
    assert done.exit_code == 0, (done.output, done.exception)
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] > 0


def test_a_plan_is_what_is_built(shards, tmp_path):
    """Bytes beside the rows, those of a checkpoint, and encodings as a bound."""
    config = load_config(shards / "alone.toml", ["checkpoint_every=8"])
    run = runs.start(config, tmp_path / "run")
    planned = planned_run(run.config, run.source.facts(), torch.device("cpu"))
    assert run.trainer.run() is None
    cache = run.trainer.parts.loss_fn.store
    assert isinstance(cache, nc.StreamingCache)
    beside = memory.stream_bytes(planned)
    ring, arrivals = cache.ring, cache.arrivals
    assert memory.cache_bytes(planned) == cache.table.embeddings.nbytes + cache.table.written.nbytes
    assert beside.lookup == ring._ordered.nbytes + ring._order.nbytes
    assert beside.slots == ring.held.nbytes + ring.touched.nbytes + arrivals.last.nbytes
    assert beside.counters == arrivals.buckets.nbytes
    features = sum(rows.nbytes for rows in cache.features.rows.values())
    assert 0.8 * beside.features < features <= beside.features  # the longest text may not have come
    saved = sum(tensor.nbytes for tensor in tensors(run.folder).values())
    assert 0 <= saved - memory.checkpoint_bytes(planned) + beside.features - features < 1024
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    work = work_of(planned)
    assert work.fill == 0
    assert 16 < last["encoded_grad_per_step"] <= work.items_grad
    assert last["encoded_nograd_per_step"] <= work.items_nograd


def test_the_plan_names_a_store(shards, call):
    done = call("plan", shards / "measured.toml")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "Store: streaming, as items come by" in done.stdout
    for part in ("cache: slots and last arrivals", "cache: features", "cache: counters"):
        assert part in done.stdout
    assert "at most 200 items" in done.stdout


CHANGES = {
    "sampler.name=uniform": "needs no corpus|over all items",
    "sampler.name=full": "needs no corpus",
    "sampler.name=popularity": "needs no corpus",
    "sampler.name=mixture": "needs no corpus",
    "sampler.name=cached_rest": "needs no corpus",
    "sampler.name=nosuch": "'nosuch'",
    "cache.kind=dense": "cache.size only with cache.kind",
    "cache.size=401": "at most the 360 rows of the streams|401",
    "cache.size=20": "at least the 24 items|20",
    "cache.refresh_rows=49": "at most the 48 items of the cache",
    "cache.eviction=lru": "cache.eviction to be",
    "data.negatives=mined.jsonl": "data.negatives only with data.source alone",
    "eval_every=2": "data.source|eval_every|data.pairs alone",
    "save_best=mrr10": "data.source|save_best|data.pairs alone",
    "data.pairs=/nowhere/*.parquet": "files|/nowhere",
    "data.items=/nowhere": "files|/nowhere",
    "batch_size=200": "1 to 160 rows|one of 200|fewer rows at a time",
    "data.window=0": "data.window",
}


@pytest.mark.parametrize("setting", CHANGES)
def test_settings(refused, shards, tmp_path, setting):
    out = tmp_path / "run"
    told = refused("train", shards / "alone.toml", "--set", setting, "--out", out)
    for part in CHANGES[setting].split("|"):
        assert part in told
    assert not out.exists()


def test_keys_of_streams_want_a_stream(refused, shards, tmp_path):
    config = tmp_path / "task.toml"
    text = f'steps = 2\ndevice = "cpu"\ndata = {{ source = "{shards / "task"}" }}\n'
    config.write_text(text)
    out = "--out", tmp_path / "run"
    for setting in ("data.items=x", "data.workers=2", "data.items_per_step=3"):
        told = refused("train", config, "--set", setting, *out)
        assert f"{setting.partition('=')[0]} only with data.pairs" in told
    assert "data.pairs, a stream" in refused(
        "train", config, "--set", "cache.kind=streaming", "--set", "cache.size=50", *out
    )
    assert "data.source, a task, or data.pairs" in refused(
        "train", _written(config, "steps = 2\n[data]\n"), *out
    )


def _written(path, text):
    path.write_text(text)
    return path


def test_a_run_that_nothing_measures(straight, refused, call, tmp_path):
    run = straight / "alone"
    assert (run / "tokenizer.json").is_file()
    for command in ("evaluate", "search"):
        assert "evaluation task" in refused(command, run)
    assert call("export", run, tmp_path / "out").exit_code == 0  # it needs no task
    told = refused("compare", run, straight / "measured", "--out", tmp_path / "page")
    assert "trained on data.pairs alone" in told


def test_another_stream_or_tokenizer_is_refused_by_name(straight, refused, tmp_path):
    folder = shutil.copytree(straight, tmp_path / "moved")
    run = folder / "alone"
    for path in (run / "config.json", *run.glob("checkpoints/*/state.json")):
        path.write_text(path.read_text().replace(str(straight), str(folder)))
    _signed(run)
    words = run / "tokenizer.json"
    kept = words.read_text()
    words.write_text(re.sub(r'"max_length": ?128', '"max_length":64', kept))
    assert "other data in tokenizer.json" in refused("resume", run)
    words.write_text(kept)
    table = parquet.read_table(folder / "items" / "part-2.parquet")
    parquet.write_table(table, folder / "items" / "part-2.parquet", row_group_size=7)
    assert re.search(r"other data in data\.items, \S*moved/items", refused("resume", run))


def _signed(run):
    """Sums of checkpoints that were edited."""
    from negcache.run.checksum import sha256_of

    for path in run.glob("checkpoints/*/manifest.json"):
        told = json.loads(path.read_text())
        told["sha256"] = {name: sha256_of(path.parent / name) for name in told["sha256"]}
        path.write_text(json.dumps(told))


def moved(shards, folder, **changes):
    """The streams once more, their columns changed: ``items=lambda columns: ...``."""
    for name in ("pairs", "items"):
        (folder / name).mkdir(parents=True)
        for path in sorted((shards / name).glob("*.parquet")):
            columns = parquet.read_table(path).to_pydict()
            table = pa.table(changes.get(name, dict)(columns))
            where = folder / name / path.name
            parquet.write_table(table, where, row_group_size=20, write_page_checksum=True)
    words = ("pairs", f"{folder}/pairs"), ("items", f"{folder}/items")
    return [each for key, path in words for each in ("--set", f"data.{key}={path}")]


def numbered(columns):
    return columns | {"item": list(range(len(columns["item"])))}


def retold(columns):
    return columns | {"text": [f"other {text}" for text in columns["text"]]}


def test_streams_that_contradict_each_other_or_the_task(shards, call, refused, tmp_path):
    out = ("--out", tmp_path / "run")
    mixed = moved(shards, tmp_path / "mixed", pairs=numbered)
    told = refused("train", shards / "alone.toml", *mixed, *out)
    assert "ids alike" in told
    assert "int64" in told
    other = moved(shards, tmp_path / "other", pairs=retold, items=retold)
    told = refused("train", shards / "measured.toml", *other, *out)
    assert "with one text" in told
    assert "in data.pairs" in told
    differ = moved(shards, tmp_path / "differ", items=retold)
    done = call("train", shards / "alone.toml", *differ, *out)
    assert done.exit_code == 2
    assert "one text for each item id; got two" in done.stderr


def test_a_shard_that_breaks_in_the_middle(shards, call, tmp_path):
    """Named, with its row group; skipped where that was asked for."""
    words = moved(shards, tmp_path / "broken")
    damage(tmp_path / "broken" / "pairs" / "part-2.parquet", 1, "query")
    options = [*words, "--set", "steps=10", "--out"]
    done = call("train", shards / "measured.toml", *options, tmp_path / "strict")
    assert done.exit_code == 2
    assert "part-2.parquet, row group 1" in done.stderr
    skip = ("--set", "data.skip_broken=true", *options, tmp_path / "lenient")
    with pytest.warns(UserWarning, match=r"Skipped 20 rows: .*part-2.parquet, row group 1"):
        done = call("train", shards / "measured.toml", *skip)
    assert done.exit_code == 0, (done.output, done.exception)
    (tmp_path / "broken" / "items" / "part-0.parquet").unlink()
    done = call("resume", tmp_path / "lenient")
    assert "other data in data.items" in done.stderr


def without_text(columns):
    """Some items have none, some queries neither."""
    ids = columns.get("item") or columns["_id"]
    texts = [
        " " if key[-1] in "13" else text for key, text in zip(ids, columns["text"], strict=True)
    ]
    if "query" not in columns:
        return columns | {"text": texts}
    asked = ["" if row % 9 == 0 else query for row, query in enumerate(columns["query"])]
    return columns | {"text": texts, "query": asked}


def test_texts_without_a_token_are_left_out(shards, call, tmp_path):
    words = moved(shards, tmp_path / "empty", pairs=without_text, items=without_text)
    with pytest.warns(UserWarning, match="no token are left out"):
        done = call("train", shards / "alone.toml", *words, "--out", tmp_path / "run")
    assert done.exit_code == 0, (done.output, done.exception)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 16 < line["encoded_grad_per_step"] < 2 * 16 * 0.9
    saved = tensors(tmp_path / "run")
    lengths = next(each for name, each in saved.items() if name.endswith("features/rows/lengths"))
    assert (lengths > 0).all(), "an item without a token is none in the cache"
    assert len(lengths) == SIZE


def test_json_lines_train_as_parquet_does(straight, call, tmp_path):
    """The same rows in other row groups: another order, the same kind of run."""
    words = []
    for name in ("pairs", "items"):
        (tmp_path / name).mkdir()
        for path in sorted((straight / name).glob("*.parquet")):
            rows = parquet.read_table(path).to_pylist()
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / name / f"{path.stem}.jsonl").write_text(text)
        words += ["--set", f"data.{name}={tmp_path / name}/*.jsonl"]
    done = call("train", straight / "measured.toml", *words, "--out", tmp_path / "run")
    assert done.exit_code == 0, (done.output, done.exception)
    done = call("compare", straight / "measured", tmp_path / "run", "--out", tmp_path / "page")
    assert done.exit_code == 0, (done.output, done.exception)


@pytest.mark.slow
def test_two_processes_read_the_same_batches(shards, tmp_path):
    """The run of one process, up to the order of float32 sums; one goes on with what two began."""
    one, two = (tmp_path / f"by-{count}" for count in (1, 2))
    words = ("-m", "negcache", "train", shards / "alone.toml", "--set", "cache.size=140")
    for count, run in ((1, one), (2, two)):
        workers = f"data.workers={count - 1}"
        done = processes.torchrun(count, *words, "--set", workers, "--out", run, makes=run)
        assert done.returncode == 0, done.stderr
    for line, expected in zip(_metrics(two), _metrics(one), strict=True):
        assert line == pytest.approx(expected, rel=1e-3, abs=1e-3)
    for path in sorted((two / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(path)
    done = processes.torchrun(1, "-m", "negcache", "resume", two)
    assert done.returncode == 0, done.stderr
    assert _metrics(two)[-1] == pytest.approx(_metrics(one)[-1], rel=1e-3, abs=1e-3)


def _metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "staleness"} for line in lines]
