"""The best checkpoint and early stopping, as a user types and reads them."""

import json
import re

import pytest

KEYS = {
    "steps": 40,
    "eval_every": 4,
    "checkpoint_every": 2,
    "save_best": "mrr10",
    "early_stopping_patience": 2,
    "optimizer.lr": 0.1,
    "optimizer.clip_norm": 0.5,
    "schedule.name": "cosine",
    "schedule.warmup_steps": 30,  # as the rate rises, so does the measure, then it falls
}


@pytest.fixture(scope="module")
def words(small):
    """A run that is stopped early."""
    settings = [word for item in KEYS.items() for word in ("--set", "{}={}".format(*item))]
    return ("train", small / "small.toml", *settings, "--out", small / "best")


@pytest.mark.slow
def test_a_run_stopped_early_says_so_and_its_best_is_used(call, words, small):
    done, run = call(*words), small / "best"
    assert done.exit_code == 0, done.output
    pattern = (
        r"Stopped early at step (\d+) of 40: no better evaluation in 2; best dev mrr10 "
        rf"(0\.\d+) at step (\d+); next: negcache evaluate {run}\n"
    )
    told = re.fullmatch(pattern, done.stdout)
    assert told, done.stdout
    end, value, best = int(told[1]), told[2], int(told[3])
    assert end == best + 8 < 40

    again = call("resume", run)
    assert again.exit_code == 0
    assert again.stdout.splitlines() == [
        "This run was stopped early and is finished; it is not trained on.",
        done.stdout.rstrip("\n"),
    ]
    measured = call("evaluate", run, "--split", "dev")
    assert f"mrr10   {value}" in measured.stdout
    assert f"checkpoint of step {best}, the best by mrr10 of dev\n" in measured.stdout
    assert json.loads((run / "evaluation" / "dev.json").read_text())["step"] == best
    newest = call("evaluate", run, "--split", "dev", "--checkpoint", "newest")
    assert f"checkpoint of step {end}, the newest\n" in newest.stdout

    for more in ((), ("--checkpoint", end)):
        assert call("search", run, "word1", *more).exit_code == 0
    index = sorted(path.stem for path in (run / "index").iterdir())
    assert index == [f"step-{best:09d}", f"step-{end:09d}"]

    plain = small / "plain"
    assert call("train", small / "small.toml", "--out", plain).exit_code == 0
    compared = call("compare", plain, run, "--split", "dev")
    assert compared.exit_code == 0, compared.output
    assert f"{run}: measuring split dev at step {best}" in compared.stderr
    report = json.loads((small / "comparison" / "comparison.json").read_text())
    assert ["steps", ["6", f"{end} of 40"]] in report["rows"]
    assert ["best on dev, measured here, at step", ["6", f"{best}"]] in report["rows"]


@pytest.mark.slow
def test_a_whole_run_tells_its_best(call, words, small):
    done = call(*words[:-1], small / "whole", "--set", "early_stopping_patience=0")
    assert re.match(r"40 steps done; best dev mrr10 0\.\d+ at step \d+; next: ", done.stdout)
