"""A run is looked at, and left as it is; figures, page and comparison say the same."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from accelerate.state import AcceleratorState
from markupsafe import escape

from negcache.diagnosis import Diagnosis
from negcache.diagnosis.report import Advice, Outlook, SamplerReport, TowerError
from negcache.run.cli.diagnosing.keys import with_keys
from negcache.run.training import load_config

NOTHING = Diagnosis("own", 1, 1, 2, 2, 0.0, 1.0, 0.0, {}, [], [], [])

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
    assert set(told) == {"draws", "batch", "uniform"}, "6 steps leave no row stale"
    assert figures["samplers"][0]["query"]["sd"] > 0
    assert figures["run_seconds"].keys() >= {"draw", "wall"}
    rows = figures["num_items"]
    assert figures["run_bytes"]["stored rows"] == rows * (8 * 4 + 4)  # and when each was written
    page = (out / "diagnosis.html").read_text()
    for advice in figures["advice"]:
        assert escape(advice["sentence"]) in page
        assert advice["sentence"] in done.stdout
    assert page.count("<svg") == 4
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith("#") for link in links)


def test_each_sentence_names_the_key_to_change(call, trained, small, tmp_path):
    """What is named is taken by train, and draws as many as was said."""
    done = call("diagnose", trained[0], *FEW, "--sampler", "in_batch", "--out", tmp_path / "out")
    figures = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    told = {each["kind"]: each["sentence"] for each in figures["advice"]}
    assert told["draws"].endswith("In the config: sampler.num_negatives = 2.")
    assert "Uniform draws would do worse" in told["uniform"]
    assert "In the config" not in told["uniform"]
    assert 'sampler.name = "auto" has them' in told["batch"]
    assert "root mean square of both towers'" in done.stdout
    assert re.search(r"cosine.*ESS", done.stdout)
    key = told["draws"].split("In the config: ")[1].rstrip(".").replace(" = ", "=")
    run = tmp_path / "followed"
    assert call("train", small / "small.toml", "--set", key, "--out", run).exit_code == 0
    assert call("diagnose", run, *FEW, "--sampler", "in_batch").exit_code == 0
    then = json.loads((run / "diagnosis" / "diagnosis.json").read_text())["samplers"][0]
    (advice,) = [each for each in figures["advice"] if each["kind"] == "draws"]
    now = figures["samplers"][0]["cost"]
    assert then["cost"] / now == pytest.approx(advice["encodings"], rel=0.05)
    assert then["sd"] == pytest.approx(advice["after"], rel=0.15)


@pytest.mark.parametrize(
    ("words", "kind", "key"),
    [
        (["cache.refresh=0.02"], "refresh", "cache.refresh = 0.08."),
        (["cache.refresh_rows=5"], "refresh", "cache.refresh_rows = 20."),
        (["sampler.name=mixture", "sampler.uniform=3"], "draws",
         "sampler.num_negatives = 2, sampler.uniform = 6."),
        (["sampler.name=mixture", "sampler.uniform=3"], "uniform",
         'sampler.name = "uniform", sampler.num_negatives = 4, without sampler.uniform.'),
        (["sampler.scored=0.5"], "uniform",
         'sampler.name = "uniform", sampler.num_negatives = 1, without sampler.scored.'),
        (["sampler.name=in_batch"], "weights", 'sampler.name = "auto", or another'),
    ],
)  # fmt: skip
def test_keys_are_those_of_the_run(small, words, kind, key):
    config = load_config(small / "small.toml", ["cache={}", *words])
    advice = Advice(kind, "Do it.", "error", 0.5, 0.4, 1.0, "other")
    (found,) = with_keys(replace(NOTHING, advice=[advice]), config).advice
    assert key in found.sentence


@pytest.mark.parametrize(
    ("choice", "after", "told"),
    [
        ((0, 0, 1.0), 1.0, ' In the config: sampler.name = "in_batch".'),
        (
            (4, 8, 1.0),
            1.0,
            ' No key sets it; sampler.name = "auto" takes it once a look finds it better.',
        ),
        ((0, 0, 1.0), 1.95, ""),
    ],
)
def test_a_choice_is_taken_by_a_key_where_there_is_one(small, choice, after, told):
    config = load_config(small / "small.toml", ["sampler.name=auto"])
    true = TowerError(0.0, 0.0, 0.0, 1.0, 1.0)
    figures = (4, true, true, 1.0, 8.0, 0.0, 2.0, None, None, 1.0, 0.0, 1.0, {}, 0.0)
    other = SamplerReport("auto: other", *figures, Outlook(choice, 1.0, None))
    advice = Advice("choice", "Do it.", "worth", 2.0, after, 1.0, other.name)
    (found,) = with_keys(replace(NOTHING, samplers=[other], advice=[advice]), config).advice
    assert found.sentence == f"Do it.{told}"


def test_a_run_that_chose_is_told_what_it_chose(call, trained, tmp_path):
    """A look is made after 32 steps."""
    run = shutil.copytree(trained[1], tmp_path / "longer")
    assert call("resume", run, "--steps", 36).exit_code == 0
    done = call("diagnose", run, *FEW, "--sampler", "in_batch", "--out", tmp_path / "out")
    assert done.exit_code == 0, (done.output, done.exception)
    figures = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    own, page = figures["samplers"][0], (tmp_path / "out" / "diagnosis.html").read_text()
    told = {each["kind"]: each for each in figures["advice"]}
    assert told.keys() >= {"foretold", "choice"}
    assert told["foretold"]["after"] == own["cosine"]
    assert told["choice"]["before"] == own["worth"]
    for figure in (own["cosine"], own["outlook"]["cosine"]):
        assert f"<td>{figure:.3f}</td>" in page
    for each in figures["samplers"]:
        assert each["outlook"] is None or f"<td>{each['worth']:.3g}</td>" in page
    for each in told.values():
        assert each["sentence"] in done.stdout


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
    asked, choices = ["auto", "in_batch", "uniform"], ["auto: 4 uniform", "auto: 64 uniform"]
    assert [each["name"] for each in one["samplers"]] == asked + choices
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


@pytest.mark.parametrize("checkpoint", [3, 6])
def test_rows_on_disk_are_read_from_a_copy(call, trained, small, tmp_path, checkpoint):
    """What is found is what is found in memory, of an older checkpoint too; files stay as they are,
    and the run goes on."""
    run, out = tmp_path / "run", tmp_path / "out"
    words = ("--set", "cache.on_disk=true", "--out", run)
    assert call("train", small / "small.toml", *words).exit_code == 0
    before, found = files_of(run), []
    for each in (run, trained[0]):
        done = call("diagnose", each, *FEW, "--checkpoint", checkpoint, "--out", out)
        assert done.exit_code == 0, (done.output, done.exception)
        figures = json.loads((out / "diagnosis.json").read_text())
        assert figures["step"] == checkpoint
        for sampler in figures["samplers"]:
            sampler.pop("draw_seconds")
        found.append([figures[key] for key in ("loss", "samplers", "advice", "ages")])
    assert found[0] == found[1]
    assert files_of(run) == before
    assert call("resume", run, "--steps", 8).exit_code == 0
    shutil.rmtree(run / "cache")
    assert "copy the whole folder" in call("diagnose", run, *FEW).stderr


def test_what_cannot_be_diagnosed_is_refused(refused, small, trained, tmp_path):
    run, auto = trained
    assert "'nearest'" in refused("diagnose", run, "--sampler", "nearest")
    assert "needs no training" in refused("diagnose", run, "--sampler", "auto")
    assert "a split of" in refused("diagnose", auto, "--split", "nosuch")
    assert "config.json" in refused("diagnose", tmp_path)
    moved = shutil.copytree(run, tmp_path / "moved")
    shutil.rmtree(moved / "checkpoints")
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
