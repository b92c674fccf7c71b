"""A lengthened run is, bit for bit, one that was to be that long from the beginning."""

import json
import shutil

import pytest

from benchmarks.soak import result

EVERY = ("--set", "log_every=4", "--set", "eval_every=5", "--set", "save_best=mrr10")


@pytest.fixture
def train(small, call, tmp_path):
    """Train: ``train("name", "steps=3")`` -> the folder of the run."""

    def make(name, *settings):
        words = [word for setting in settings for word in ("--set", setting)]
        done = call("train", small / "small.toml", *EVERY, *words, "--out", tmp_path / name)
        assert done.exit_code == 0, (done.output, done.exception)
        return tmp_path / name

    return make


def test_more_steps(train, call, refused):
    """6 steps end within a window of the log; what they told of it is told anew."""
    whole, part = train("whole", "steps=15"), train("part", "steps=6")
    short = (part / "metrics.jsonl").read_text()
    done = call("resume", part, "--steps", 15)
    assert "15 steps done" in done.stdout, (done.output, done.exception)
    assert result(part) == result(whole)
    assert (part / "config.json").read_text() == (whole / "config.json").read_text()
    assert json.loads(short.splitlines()[-1])["step"] == 6
    before = (part / "config.json").read_text()
    assert "at least the 15 steps that have been made; got 9" in refused(
        "resume", part, "--steps", 9
    )
    assert (part / "config.json").read_text() == before
    assert "steps to be greater than" in refused("resume", part, "--steps", 0)


def test_fewer_steps_are_said(train, call):
    """Fewer than planned, more than made."""
    run = train("short", "steps=12", "max_seconds=1e-6")
    done = call("resume", run, "--steps", 9)
    told = "This run was to make 12 steps; from now on it ends at 9, 1 of which are made."
    assert told in done.stdout, (done.output, done.exception)
    assert "was to make" not in call("resume", run, "--steps", 9, "--max-seconds", 1000).stdout
    assert "was to make" not in call("resume", run, "--steps", 10).stdout


def test_a_resumed_run_takes_no_other_keys(train, refused):
    run = train("kept", "steps=2", "eval_every=1")
    told = refused("resume", run, "--set", "optimizer.lr=1")
    assert "--steps or --max-seconds" in told
    assert "negcache train CONFIG --set optimizer.lr=1 --out" in told


def test_what_depends_on_the_steps_is_refused(train, refused, call):
    run = train("cosine", "steps=6", "schedule.name=cosine")
    before = (run / "config.json").read_text()
    told = refused("resume", run, "--steps", 9)
    assert 'the 6 steps that schedule.name "cosine" was made for; got 9' in told
    assert (run / "config.json").read_text() == before
    assert call("resume", run, "--steps", 6).exit_code == 0
    shutil.rmtree(run / "checkpoints")  # as a kill before the first: nothing has been made
    assert "9 steps done" in call("resume", run, "--steps", 9).stdout


def test_a_budget_of_seconds(train, call, tmp_path):
    """It ends after a step, tells how to go on, and the state is that of any run at that step."""
    whole, part = train("whole", "steps=12"), train("part", "steps=12", "max_seconds=1e-6")
    assert len((part / "metrics.jsonl").read_text().splitlines()) == 1
    again = call("resume", part)
    assert "Its 1e-06 seconds have passed at step 1 of 12" in again.stdout
    assert f"negcache resume {part} --max-seconds S" in again.stdout
    done = call("resume", part, "--max-seconds", 1000)
    assert "12 steps done" in done.stdout, (done.output, done.exception)
    assert result(part) == result(whole)
    assert json.loads((part / "config.json").read_text())["max_seconds"] == 1000
