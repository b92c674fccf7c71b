"""A run is looked at, and left as it is; figures, page and comparison say the same."""

import json
import re
import shutil

import pytest
from accelerate.state import AcceleratorState

FEW = ("--queries", "16", "--repeats", "4")


@pytest.fixture(scope="module")
def runs(small):
    return small / "looked-at", small / "other"


@pytest.fixture
def trained(call, small, runs):
    for run, words in zip(runs, ([], ["--set", "sampler.name=auto"]), strict=True):
        AcceleratorState._reset_state(True)
        if not run.exists():
            done = call("train", small / "small.toml", *words, "--out", run)
            assert done.exit_code == 0, (done.output, done.exception)
    return runs


def files_of(run):
    """Everything but who worked on it last."""
    return {
        path.relative_to(run): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def test_a_run_is_diagnosed_and_left_as_it_is(call, trained, tmp_path):
    run, before = trained[0], files_of(trained[0])
    out = tmp_path / "out"
    done = call("diagnose", run, *FEW, "--sampler", "quadratic", "--out", out)
    assert done.exit_code == 0, (done.output, done.exception)
    assert files_of(run) == before
    figures = json.loads((out / "diagnosis.json").read_text())
    assert (figures["run"], figures["step"], figures["split"]) == ("looked-at", 6, "train")
    assert figures["sampled"] == figures["num_items"]
    names = [each["name"] for each in figures["samplers"]]
    assert names[:2] == ["cached", "quadratic"]
    told = [each["kind"] for each in figures["advice"]]
    assert told == ["draws", "batch", "uniform", "refresh"]
    assert figures["samplers"][0]["query"]["sd"] > 0
    assert figures["run_seconds"].keys() >= {"draw", "wall"}
    rows = figures["num_items"]
    assert figures["run_bytes"]["stored rows"] == rows * (8 * 4 + 4)  # and when each was written
    page = (out / "diagnosis.html").read_text()
    for advice in figures["advice"]:
        assert advice["sentence"].replace("'", "&#39;") in page
        assert advice["sentence"] in done.stdout
    assert page.count("<svg") == 4
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith("#") for link in links)


@pytest.mark.slow
def test_again_is_the_same_and_fewer_items_say_so(call, trained, tmp_path):
    words = (*FEW, "--items", "12", "--split", "dev", "--checkpoint", "3")
    for out in ("one", "two"):
        done = call("diagnose", trained[1], *words, "--out", tmp_path / out)
        assert done.exit_code == 0, (done.output, done.exception)
    one, two = (
        json.loads((tmp_path / out / "diagnosis.json").read_text()) for out in ("one", "two")
    )
    for found in (one, two):
        found.pop("seconds")
        for sampler in found["samplers"]:
            sampler.pop("draw_seconds")
    assert one == two
    assert one["step"] == 3
    assert [each["name"] for each in one["samplers"]] == ["auto", "in_batch", "uniform"]
    assert one["sampled"] < one["num_items"]
    assert "a uniform sample of the others" in (tmp_path / "one" / "diagnosis.html").read_text()


@pytest.mark.slow
def test_a_comparison_has_the_columns_of_those_that_were_looked_at(call, trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "copied")
    assert call("diagnose", run, *FEW, "--sampler", "in_batch").exit_code == 0
    found = json.loads((run / "diagnosis" / "diagnosis.json").read_text())["samplers"][0]
    done = call("compare", run, trained[1], "--out", tmp_path / "out")
    assert done.exit_code == 0, (done.output, done.exception)
    rows = dict(json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"])
    assert rows["diagnosed at step"] == ["6", "-"]
    assert rows["gradient bias, of its norm"] == [f"{found['bias']:.3f}", "-"]
    assert rows["KL of the proposal, nats"] == [f"{found['kl']:.3f}", "-"]
    (run / "diagnosis" / "diagnosis.json").write_text('{"format": 1}')
    done = call("compare", run, trained[1], "--out", tmp_path / "out")
    assert f"make it again: negcache diagnose {run}" in done.stderr


def test_what_cannot_be_diagnosed_is_refused(refused, small, trained, tmp_path):
    run, auto = trained
    assert "'nearest'" in refused("diagnose", run, "--sampler", "nearest")
    assert "needs no training" in refused("diagnose", run, "--sampler", "auto")
    assert "a split of" in refused("diagnose", auto, "--split", "nosuch")
    assert "config.json" in refused("diagnose", tmp_path)
    moved = shutil.copytree(run, tmp_path / "on-disk")
    values = json.loads((moved / "config.json").read_text())
    values["cache"]["on_disk"] = True
    (moved / "config.json").write_text(json.dumps(values))
    assert "rows in memory" in refused("diagnose", moved)
    shutil.rmtree(moved / "checkpoints")
    values["cache"]["on_disk"] = False
    (moved / "config.json").write_text(json.dumps(values))
    assert "a run with a checkpoint" in refused("diagnose", moved)


def test_texts_that_repeat_a_positive_are_told_of(tmp_path):
    """Real texts, of which one is there twice but for case and white space."""
    import torch
    from wordnet_slice import write_slice

    from negcache.run.cli.diagnosing.suspects import OtherSplits, TextTwins
    from negcache.run.data import open_task

    folder = write_slice(tmp_path / "task", 40)
    lines = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    lines[7]["text"] = f"  {lines[0]['text'].upper()} "
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = open_task(str(folder))
    queries = torch.tensor([0, 1])
    twins = TextTwins.of(task, iter).exclusion(queries, torch.tensor([0, 1]))
    assert [twins.ids[twins.rows == row].tolist() for row in (0, 1)] == [[0, 7], [1]]
    both = OtherSplits([task.known["dev"], task.known["test"]])
    found = both.exclusion(torch.tensor([8, 0]), torch.tensor([3, 0]))  # 8 is of the dev split
    assert [found.ids[found.rows == row].tolist() for row in (0, 1)] == [[3, 8], [0]]
