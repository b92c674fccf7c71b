"""Runs side by side: the figures are those of the runs, the tests those of the textbook."""

import base64
import itertools
import json
import re
import resource
import shutil

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from scipy import stats

from benchmarks import soak
from negcache.run.cli.comparing.history import read_history
from negcache.run.cli.comparing.significance import holm, paired_difference

STRANGE = r"_$\q$<b>"  # a name that HTML, formulas and legends would misread


@pytest.fixture(scope="module")
def runs(small):
    """Two runs; the second in another precision and without a dev curve."""
    return small / "cached", small / STRANGE


@pytest.fixture
def trained(call, small, runs):
    others = ["sampler.name=uniform", "seed=1", "mixed_precision=bf16"]
    for run, words in zip(runs, (["eval_every=3"], others), strict=True):
        AcceleratorState._reset_state(True)
        if not run.exists():
            settings = [part for word in words for part in ("--set", word)]
            done = call("train", small / "small.toml", *settings, "--out", run)
            assert done.exit_code == 0, (done.output, done.exception)
    return runs


def test_what_auto_chooses_is_no_setting(call, small, trained, tmp_path):
    """A row where the others differ, and no row where only auto has none."""
    first = shutil.copytree(trained[0], tmp_path / "first")
    auto, two = tmp_path / "auto", tmp_path / "two"
    AcceleratorState._reset_state(True)
    for run, word in ((auto, "sampler.name=auto"), (two, "sampler.num_negatives=2")):
        done = call("train", small / "small.toml", "--set", word, "--out", run)
        assert done.exit_code == 0, (done.output, done.exception)
    for others, row in (((), None), ((two,), ["1", "chosen", "2"])):
        out = tmp_path / f"out-{len(others)}"
        done = call("compare", first, auto, *others, "--out", out)
        assert done.exit_code == 0, (done.output, done.exception)
        rows = dict(json.loads((out / "comparison.json").read_text())["rows"])
        assert rows.get("sampler.num_negatives") == row


def test_a_comparison_and_again(call, small, trained):
    done = call("compare", *trained)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stderr.count("measuring split test at step 6") == 2
    again = call("compare", *trained)
    assert (again.stdout, again.stderr) == (done.stdout, "")
    assert "different training seeds" in done.stdout
    assert "nothing about other training seeds" in done.stdout

    out = small / "comparison"
    assert sorted(path.name for path in out.iterdir()) == [
        "comparison.html", "comparison.json", "dev.png", "loss.png",
    ]  # fmt: skip
    figures = json.loads((out / "comparison.json").read_text())
    told = [json.loads((run / "evaluation" / "test.json").read_text()) for run in trained]
    rows = dict(figures["rows"])
    assert rows["sampler.name"] == ["cached", "uniform"]
    assert rows["seed"] == ["0", "1"]
    assert rows["MRR@10"] == [f"{means['mrr10']:.4f}" for means in told]
    assert "eval_every" not in rows  # says nothing about what was trained
    (versus,) = figures["versus"]
    found = versus["difference"]
    assert found["mean"] == pytest.approx(told[1]["mrr10"] - told[0]["mrr10"])
    assert found["low"] <= found["mean"] <= found["high"]
    assert found["better"] + found["worse"] + found["equal"] == figures["num_queries"] == 24


def test_the_page_needs_nothing_beside_itself(call, trained, tmp_path):
    assert call("compare", *trained, "--out", tmp_path / "out").exit_code == 0
    page = (tmp_path / "out" / "comparison.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    pictures = [(tmp_path / "out" / f"{name}.png").read_bytes() for name in ("dev", "loss")]
    prefix = "data:image/png;base64,"
    assert [base64.b64decode(source.removeprefix(prefix)) for source in sources] == pictures
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert STRANGE.replace("<", "&lt;").replace(">", "&gt;") in page
    assert STRANGE not in page


def test_another_split_and_measure(call, trained, tmp_path):
    words = ("--split", "dev", "--measure", "r1", "--out", tmp_path / "out")
    done = call("compare", *trained[::-1], *words)
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert (figures["split"], figures["measure"], figures["runs"][0]) == ("dev", "r1", STRANGE)
    assert json.loads((trained[0] / "evaluation" / "dev.json").read_text())["step"] == 6


def test_an_evaluation_of_an_older_step_is_made_anew(call, trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "older")
    told = run / "evaluation" / "test.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"step": 3}))
    done = call("compare", run, trained[1])
    assert f"{run}: measuring split test at step 6" in done.stderr
    assert json.loads(told.read_text())["step"] == 6


def test_runs_that_cannot_be_compared(call, refused, small, trained, tmp_path):
    cached, uniform = trained
    out = ("--out", tmp_path / "out")
    assert "two runs or more; got 1" in refused("compare", cached, *out)
    assert "one folder twice" in refused("compare", cached, cached, *out)
    assert "config.json" in refused("compare", cached, tmp_path, *out)
    assert "ndcg10, mrr10" in refused("compare", *trained, "--measure", "mrr", *out)
    assert "'nosuch'" in refused("compare", *trained, "--split", "nosuch", *out)
    (tmp_path / "file").touch()
    assert f"a file {tmp_path / 'file'}" in refused("compare", *trained, "--out", tmp_path / "file")

    bare = shutil.copytree(uniform, tmp_path / "bare")
    shutil.rmtree(bare / "checkpoints")
    assert f"none in {bare}" in refused("compare", cached, bare, *out)

    words = ("--set", "data.vocab_size=300", "--out", tmp_path / "other")
    assert call("train", small / "small.toml", *words).exit_code == 0
    told = refused("compare", cached, tmp_path / "other", *out)
    assert str(cached) in told
    assert f"other data in {tmp_path / 'other'}" in told
    assert "vocab_size 300" in told
    assert not (tmp_path / "out").exists()


def test_data_that_changed_since(refused, small, trained, tmp_path):
    task = shutil.copytree(small / "task", tmp_path / "task")
    qrels = task / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text() + "q19\td3\t1\n")
    moved = [shutil.copytree(run, tmp_path / run.name) for run in trained]
    for run in moved:
        values = json.loads((run / "config.json").read_text())
        values["data"]["source"] = str(task)
        (run / "config.json").write_text(json.dumps(values))
    assert f"the data that {moved[0]} was trained on" in refused("compare", *moved)


def test_mined_negatives_are_a_setting(call, small, trained, tmp_path):
    mined = tmp_path / "mined.jsonl"
    mined.write_text('{"query-id": "q0", "positive-id": "d0", "negative-ids": ["d1", "d2"]}\n')
    words = ("--set", f"data.negatives={mined}", "--out", tmp_path / "mined")
    assert call("train", small / "small.toml", *words).exit_code == 0
    done = call("compare", trained[0], tmp_path / "mined", "--out", tmp_path / "out")
    assert done.exit_code == 0, (done.output, done.exception)
    figures = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert dict(figures["rows"])["data.negatives"] == ["None", str(mined)]


def test_damaged_runs_are_named(refused, call, trained, tmp_path):
    assert call("compare", *trained, "--out", tmp_path / "out").exit_code == 0
    run = shutil.copytree(trained[1], tmp_path / "damaged")
    ranking = run / "evaluation" / "test.trec"
    lines = ranking.read_text().splitlines(keepends=True)
    ranking.write_text("".join(lines[100:]))  # a query less
    assert "23 queries instead of 24" in refused("compare", trained[0], run)
    ranking.write_text("".join(lines[:-1]))  # an entry less
    assert f"negcache evaluate {run} --split test" in refused("compare", trained[0], run)
    swapped = lines[0].split()
    swapped[4] = "-1000.0"
    ranking.write_text("".join([" ".join(swapped) + "\n", *lines[1:]]))
    assert "scores that rise within a query" in refused("compare", trained[0], run)
    ranking.write_text("".join(lines).replace(" Q0 d", " Q0 x"))  # other items
    assert "than in test.json" in refused("compare", trained[0], run)
    ranking.write_text("".join(lines))
    (run / "timings.jsonl").write_text('{"step": 3\n')
    assert "line 1 of" in refused("compare", trained[0], run)
    for state in (run / "checkpoints").glob("*/state.json"):
        state.write_text("{")
    assert "state.json" in refused("compare", trained[0], run)


def test_a_history_ends_at_the_checkpoint(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "killed")
    whole = read_history(run, 6)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 99.0}\n{"step": 12, "lo')
    cut = read_history(run, 6)
    assert cut.loss.values.tolist() == whole.loss.values.tolist()
    assert cut.loss.steps.tolist() == [3, 6]
    assert cut.dev["mrr10"].encoded.tolist() == cut.loss.encoded.tolist()
    assert cut.loss.encoded[-1] == cut.encoded_grad + cut.encoded_nograd
    assert cut.loss.seconds[-1] == pytest.approx(cut.seconds)
    assert read_history(run, 3).loss.values.tolist() == whole.loss.values[:1].tolist()


def limit_files():
    """The next file may not grow beyond 20 kB: smaller than a picture."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(call, trained, tmp_path):
    out = tmp_path / "out"
    assert call("compare", *trained, "--out", out).exit_code == 0
    (out / "mine.txt").touch()
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    process = soak.negcache("compare", *trained, "--out", out, preexec_fn=limit_files)
    done = soak.finish(process)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"to write {out}" in done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_the_randomisation_test_is_exact_for_few_queries():
    rng = np.random.default_rng(3)
    values, baseline = rng.random(9), rng.random(9)
    differences = values - baseline
    flips = np.array(list(itertools.product((-1, 1), repeat=9)))
    as_large = np.abs((flips * differences).mean(1)) >= abs(differences.mean()) - 1e-12
    found = paired_difference(values, baseline)
    assert found.p == pytest.approx(as_large.mean())
    assert found.mean == pytest.approx(differences.mean())


def test_many_queries_agree_with_the_normal_theory():
    rng = np.random.default_rng(4)
    baseline = rng.random(3000)
    noise = rng.normal(0, 0.1, 2000)
    values = baseline.copy()
    values[np.arange(3000) % 3 > 0] += noise - noise.mean() + 0.004  # the others are equal
    found = paired_difference(values, baseline)
    theory = stats.ttest_rel(values, baseline)
    interval = theory.confidence_interval(0.95)
    assert 0.01 < theory.pvalue < 0.2
    assert found.p == pytest.approx(theory.pvalue, abs=0.02)
    width = interval.high - interval.low
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=width / 20)
    assert paired_difference(values, baseline) == found  # the same every time
    assert found.equal == 1000


def test_equal_runs_show_no_difference():
    values = np.array([0.0, 1.0, 0.5])
    found = paired_difference(values, values)
    assert (found.mean, found.low, found.high, found.p, found.equal) == (0, 0, 0, 1, 3)
    found = paired_difference(values, values + np.array([0.0, 0.0, 0.1]))
    assert (found.p, found.worse, found.equal) == (1, 1, 2), "one alone may as well be chance"


def test_holm():
    assert holm([0.2]) == [0.2]
    assert holm([0.01, 0.02, 0.03, 0.9]) == pytest.approx([0.04, 0.06, 0.06, 0.9])
    assert holm([0.9, 0.5]) == pytest.approx([1.0, 1.0])


def test_one_query_that_differs_is_no_difference_shown():
    for queries in (2, 24):
        values = np.zeros(queries)
        values[0] = 0.5
        found = paired_difference(values, np.zeros(queries))
        assert (found.p, found.better, found.worse, found.equal) == (1.0, 1, 0, queries - 1)
        assert found.low <= found.mean <= found.high
