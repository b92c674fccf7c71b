"""Runs over streams are looked at: all items that come, the pairs that come next, what is held."""

import json
import shutil

import processes
import pytest
import torch
import wordnet_slice
from accelerate.state import AcceleratorState
from markupsafe import escape
from pyarrow import parquet
from shards import damage
from stream_config import write_config

from negcache.run.cli.runs import trained
from negcache.run.data.streams import hash_ids

ITEMS, STEPS, SIZE = 240, 40, 60
FEW = ("--queries", 32, "--repeats", 4)

FORETOLD = 0.1
"""How far the coverage of a larger cache, trained anew, may be from what was said, relatively."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    wordnet_slice.write_slice(folder / "task", ITEMS)
    wordnet_slice.write_streams(folder / "task", folder)
    top, cache = "checkpoint_every = 10", 'row_weight = "dedup"\n[optimizer]\nlr = 0.05'
    write_config(folder / "run.toml", steps=STEPS, size=SIZE, top=top, cache=cache)
    return folder


@pytest.fixture
def train(call, shards, tmp_path):
    """Train with these settings: ``train("steps=3")`` -> run folder."""

    def trains(*settings, out="run"):
        AcceleratorState._reset_state(True)
        words = [word for each in settings for word in ("--set", each)]
        done = call("train", shards / "run.toml", *words, "--out", tmp_path / out)
        assert done.exit_code == 0, (done.output, done.exception)
        AcceleratorState._reset_state(True)
        return tmp_path / out

    return trains


@pytest.fixture
def straight(call, shards):
    run = shards / "straight"
    if not run.exists():
        done = call("train", shards / "run.toml", "--out", run)
        assert done.exit_code == 0, (done.output, done.exception)
    AcceleratorState._reset_state(True)
    return run


@pytest.fixture
def diagnosed(call, tmp_path):
    """The figures, what was said, and the page, of a run."""

    def looks(run, *words):
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        done = call("diagnose", run, *FEW, *words, "--out", out)
        assert done.exit_code == 0, (done.output, done.exception)
        AcceleratorState._reset_state(True)
        figures = json.loads((out / "diagnosis.json").read_text())
        return figures, done.stdout, (out / "diagnosis.html").read_text()

    return looks


def files_of(run):
    return {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"}


def by_hand(run, queries=32):
    """Exact loss and coverage, with nothing of the diagnosis: of the next pairs, over the files."""
    with trained(run, whole=True) as opened:
        source, towers = opened.source, opened.towers
        loss_fn, start = opened.trainer.parts.loss_fn, opened.trainer.step
        texts = {}
        for path in (source.items or source.pairs).table.files:
            table = parquet.read_table(path.path)
            ids = table["_id" if source.items else "item"].to_pylist()
            texts |= dict(zip(ids, table["text"].to_pylist(), strict=True))
        keys = hash_ids(list(texts)).ids.tolist()
        batches = [source.pairs.batch(start + number) for number in range(-(-queries // 16))]
        asked = [text for batch in batches for text in batch.queries][:queries]
        wanted = torch.cat([batch.item_ids for batch in batches])[:queries].tolist()
        with torch.no_grad():
            rows = towers.item_tower(towers.tokenize.items(list(texts.values())))
            vectors = towers.query_tower(towers.tokenize.items(asked))
            embed = loss_fn.score.embed
            scores = loss_fn.score(embed(vectors).double(), embed(rows).double())
        places = torch.tensor([keys.index(each) for each in wanted])
        loss = torch.nn.functional.cross_entropy(scores, places)
        scores[torch.arange(len(places)), places] = -torch.inf
        ring = loss_fn.store.ring.held.tolist() if loss_fn.store is not None else []
        held = torch.tensor([keys.index(each) for each in ring], dtype=torch.int64)
        coverage = scores.softmax(dim=1)[:, held].sum(dim=1).mean()
    AcceleratorState._reset_state(True)
    return float(loss), float(coverage)


def test_a_run_over_streams_is_diagnosed_and_left_as_it_is(straight, diagnosed):
    before = files_of(straight)
    figures, said, page = diagnosed(straight)
    assert files_of(straight) == before
    loss, coverage = by_hand(straight)
    assert figures["loss"] == pytest.approx(loss, rel=1e-5)
    assert figures["coverage"]["share"] == pytest.approx(coverage, rel=1e-5)
    assert figures["coverage"]["rows"] == SIZE
    assert (figures["num_items"], figures["sampled"]) == (ITEMS, ITEMS)
    assert (figures["step"], figures["first_batch"], figures["queries"]) == (STEPS, STEPS, 32)
    names = [each["name"] for each in figures["samplers"]]
    assert names == ["auto", "in_batch", "auto: 2 draws a query"]
    assert [each["rows"] for each in figures["coverage_by_rows"]] == [7, 15, 30, 60, 120]
    assert f"{SIZE} of {ITEMS} items, with {coverage:.1%} of the softmax" in said
    assert f"{SIZE} of {ITEMS} items, with {coverage:.1%} of the softmax" in page
    assert f"of data.pairs, from batch {STEPS} on, which would have come next" in page
    for advice in figures["advice"]:
        assert advice["sentence"] in said
        assert escape(advice["sentence"]) in page
    assert sum(each["rows"] for each in figures["ages"]) == SIZE
    assert page.count("<svg") == 5


def test_a_larger_cache_holds_what_was_foretold(straight, train, diagnosed):
    """Advice that is followed: the same run anew, with the size that was named."""
    figures, _, _ = diagnosed(straight)
    told = figures["advice"][0]
    assert told["kind"] == "capacity"
    key = told["sentence"].split("In the config: ")[1].rstrip(".").replace(" = ", "=")
    assert key == f"cache.size={2 * SIZE}"
    assert told["before"] - told["after"] > 0.1
    then, _, _ = diagnosed(train(key))
    assert then["coverage"]["rows"] == told["rows"]
    assert then["coverage"]["share"] == pytest.approx(1 - told["after"], rel=FORETOLD)
    smaller, _, _ = diagnosed(train(f"cache.size={SIZE // 2}", out="smaller"))
    foretold = figures["coverage_by_rows"][2]
    assert foretold["rows"] == SIZE // 2
    assert smaller["coverage"]["share"] == pytest.approx(foretold["share"], rel=2 * FORETOLD)


def test_a_share_that_is_looked_at_is_named_with_the_size(train, diagnosed):
    """Half the share of twice the rows is as many."""
    run = train("cache={kind='streaming', size=60, refresh=0.1}")
    figures, _, _ = diagnosed(run)
    told = {each["kind"]: each["sentence"] for each in figures["advice"]}
    assert "cache.size = 120, cache.refresh = 0.05, which looks at as many" in told["capacity"]


def test_a_sample_of_the_items_says_so(straight, diagnosed):
    whole, _, _ = diagnosed(straight)
    part, _, page = diagnosed(straight, "--items", 60)
    assert part["sampled"] < part["num_items"] == ITEMS
    assert part["truth_error"] > 0
    assert "a uniform sample of the others" in page
    assert part["loss"] == pytest.approx(whole["loss"], abs=0.2)
    assert part["coverage"]["share"] == pytest.approx(whole["coverage"]["share"], abs=0.1)


def test_without_a_stream_of_items_those_of_the_pairs_are_all(train, diagnosed, shards):
    run = train(f"data={{pairs='{shards}/pairs', vocab_size=400}}")
    figures, _, _ = diagnosed(run)
    assert figures["num_items"] == ITEMS * 8 // 10
    loss, coverage = by_hand(run)
    assert figures["loss"] == pytest.approx(loss, rel=1e-5)
    assert figures["coverage"]["share"] == pytest.approx(coverage, rel=1e-5)


def test_a_run_that_keeps_no_row(train, diagnosed, refused):
    """Negatives of the batch: their weights stand for nothing else, and no key is named."""
    run = train("sampler.name=in_batch")
    figures, said, _ = diagnosed(run)
    assert [each["name"] for each in figures["samplers"]] == ["in_batch"]
    assert figures["coverage"] is None
    assert figures["samplers"][0]["query"]["sd"] > 0
    assert "coverage" not in said
    told = {each["kind"]: each["sentence"] for each in figures["advice"]}
    assert "In the config" not in told.get("weights", "")
    assert "a run that keeps a cache" in refused("diagnose", run, "--sampler", "cached")


def test_what_is_known_no_more_is_not_foretold(train, diagnosed):
    """Rows that stay because they were drawn are not those that came last."""
    figures, _, page = diagnosed(train("cache={kind='streaming', size=60, refresh_rows=4, "
                                       "eviction='least_recently_refreshed'}"))  # fmt: skip
    assert figures["coverage_by_rows"] == []
    assert "capacity" not in [each["kind"] for each in figures["advice"]]
    assert 0 < figures["coverage"]["share"] < 1
    assert page.count("<svg") == 4


def test_an_older_checkpoint_rows_on_disk_and_accumulation(train, diagnosed):
    settings = ("accumulation=2", "data.workers=2", "steps=20")
    memory = train(*settings, out="memory")
    disk = train(*settings, "cache.on_disk=true", out="disk")
    before, found = files_of(disk), []
    for run in (memory, disk):
        figures, _, _ = diagnosed(run, "--checkpoint", 10)
        for sampler in figures["samplers"]:
            sampler.pop("draw_seconds")
        found.append([figures[key] for key in ("loss", "samplers", "advice", "coverage_by_rows")])
        assert (figures["step"], figures["first_batch"]) == (10, 20)
    assert found[0] == found[1]
    assert len(found[0][3]) == 5
    assert files_of(disk) == before


def test_shards_that_are_broken_are_left_out(train, diagnosed, shards, tmp_path):
    for name in ("pairs", "items"):
        shutil.copytree(shards / name, tmp_path / "broken" / name)
    paths = [f"data.{name}={tmp_path / 'broken' / name}" for name in ("pairs", "items")]
    run = train(*paths, "data.skip_broken=true", "steps=4")
    damage(tmp_path / "broken" / "items" / "part-0.parquet", 0, "text")
    with pytest.warns(UserWarning, match="part-0.parquet, row group 0"):
        figures, _, _ = diagnosed(run)
    # 20 texts are gone; the pairs have those of 16, and the cache may have others
    assert ITEMS - 4 <= figures["num_items"] <= ITEMS


def test_texts_without_a_token_are_no_items(train, diagnosed, shards, tmp_path):
    shutil.copytree(shards / "items", tmp_path / "items")
    for path in sorted((tmp_path / "items").glob("*.parquet")):
        table = parquet.read_table(path).to_pydict()
        wordnet = [
            " " if key[-1] == "3" else text for key, text in zip(*table.values(), strict=True)
        ]
        empty = {"_id": [f"x{key}" for key in table["_id"]], "text": wordnet}
        _write(path, empty)
    with pytest.warns(UserWarning, match="no token are left out"):
        run = train(f"data.items={tmp_path / 'items'}")
    with pytest.warns(UserWarning, match="no token are left out"):
        figures, _, _ = diagnosed(run)
    files = sorted((tmp_path / "items").glob("*.parquet"))
    texts = [text for path in files for text in parquet.read_table(path)["text"].to_pylist()]
    assert 0 < texts.count(" ") < len(texts)
    pairs = ITEMS * 8 // 10
    assert figures["num_items"] == pairs + len(texts) - texts.count(" ")
    assert len(figures["coverage_by_rows"]) == 5, "what came last is read as it came"


def _write(path, columns):
    import pyarrow as pa

    parquet.write_table(pa.table(columns), path, row_group_size=20)


@pytest.mark.slow
def test_a_comparison_has_the_coverage(train, shards, call, tmp_path):
    """Beside a run that nobody looked at."""
    for out in ("looked", "other"):
        train(f"data.source={shards / 'task'}", "steps=6", out=out)
    assert call("diagnose", tmp_path / "looked", *FEW).exit_code == 0
    AcceleratorState._reset_state(True)
    home = tmp_path / "looked" / "diagnosis" / "diagnosis.json"
    found = json.loads(home.read_text())
    done = call("compare", tmp_path / "looked", tmp_path / "other", "--out", tmp_path / "page")
    assert done.exit_code == 0, (done.output, done.exception)
    rows = dict(json.loads((tmp_path / "page" / "comparison.json").read_text())["rows"])
    assert rows["coverage by cached rows"] == [f"{found['coverage']['share']:.3f}", "-"]
    assert rows["KL of the proposal, nats"] == ["-", "-"]
    assert rows["gradient bias, of its norm"] == [f"{found['samplers'][0]['bias']:.3f}", "-"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--split", "dev"], "leave --split out"),
        (["--sampler", "uniform"], "over all items"),
        (["--sampler", "nearest"], "'nearest'"),
    ],
)
def test_what_a_stream_cannot_be_asked_is_refused(straight, refused, words, told):
    assert told in refused("diagnose", straight, *words)


@pytest.mark.slow
def test_a_run_of_two_processes_is_looked_at_by_one(shards, train, diagnosed, tmp_path):
    """Rows that were dealt out are gathered: what is found is what one process leaves behind."""
    run, size = tmp_path / "by-two", "cache.size=140"
    words = ("-m", "negcache", "train", shards / "run.toml", "--set", size, "--out", run)
    done = processes.torchrun(2, *words, makes=run)
    assert done.returncode == 0, done.stderr
    (two, _, _), (one, _, _) = diagnosed(run), diagnosed(train(size))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert two["coverage"]["rows"] == 140
    assert two["coverage"]["share"] == pytest.approx(one["coverage"]["share"], rel=1e-2)
    assert len(two["coverage_by_rows"]) == 5


@pytest.mark.slow
def test_a_task_of_two_processes_is_looked_at_by_one(shards, train, diagnosed, tmp_path):
    """A row for every item, dealt out, and gathered again."""
    run = tmp_path / "by-two"
    settings = (f"data={{source='{shards}/task', vocab_size=400}}", "cache={refresh_rows=4}")
    settings = (*settings, "sampler.name=cached", "steps=10")
    words = [word for each in settings for word in ("--set", each)]
    command = ("-m", "negcache", "train", shards / "run.toml", *words, "--out", run)
    done = processes.torchrun(2, *command, makes=run)
    assert done.returncode == 0, done.stderr
    (two, _, _), (one, _, _) = diagnosed(run), diagnosed(train(*settings))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert two["coverage"] == one["coverage"] == {"rows": ITEMS, "share": 1.0}
    own, other = two["samplers"][0], one["samplers"][0]
    assert own["kl"] == pytest.approx(other["kl"], rel=0.05, abs=1e-4)
    assert own["sd"] == pytest.approx(other["sd"], rel=0.05)
