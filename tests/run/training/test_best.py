"""The best checkpoint outlives the newest; a run that gets no better ends; both resume exactly."""

import json
import signal
from dataclasses import replace
from itertools import count
from typing import get_args

import pytest
import torch

from benchmarks.soak import result
from negcache import InputError
from negcache.packing import pack
from negcache.run.cli.runs import reopen, trained
from negcache.run.evaluation import MEASURES
from negcache.run.training import Checkpoints
from negcache.run.training.config_tables import Measure

KEYS = {
    "steps": 40,
    "eval_every": 4,
    "checkpoint_every": 5,  # not when it is measured: the best is saved for its own sake
    "keep_checkpoints": 2,
    "save_best": "mrr10",
}
OVERSHOOT = {  # as the rate rises, so does the measure, then it falls
    "optimizer": {"lr": 0.3, "clip_norm": 0.5},
    "schedule": {"name": "cosine", "warmup_steps": 30},
}


def kept(run):
    return [int(path.name[-9:]) for path in run.trainer.checkpoints.paths()]


def curve(lines, measure="mrr10"):
    """{step: dev measure}."""
    told = [line for line in lines if f"dev/{measure}" in line]
    return {line["step"]: line[f"dev/{measure}"] for line in told}


def first_best(values):
    """The first step with the highest value."""
    return max(values, key=lambda step: (values[step], -step))


def interrupt(run, *steps):
    """Have the run's own dev evaluation send SIGTERM at these steps."""
    inner = run.trainer.parts.evaluate

    def evaluate():
        if run.trainer.step in steps:
            signal.raise_signal(signal.SIGTERM)
        return inner()

    run.trainer.parts = replace(run.trainer.parts, evaluate=evaluate)
    return run


def test_measures_are_those_of_the_evaluation():
    assert get_args(Measure) == tuple(MEASURES)


def test_the_best_is_kept_while_others_go(start, lines):
    run = start(**KEYS, **OVERSHOOT)
    run.trainer.run()
    values = curve(lines(run.folder))
    best = first_best(values)
    assert best < 35  # else it would be among the newest
    assert kept(run) == [best, 35, 40]
    assert run.trainer.best.step == best
    manifest = json.loads((run.trainer.checkpoints.paths()[-1] / "manifest.json").read_text())
    assert manifest["best"] == best
    chosen = trained(run.folder)
    assert chosen.trainer.step == best
    assert chosen.retriever.evaluate("dev").means["mrr10"] == values[best]
    assert trained(run.folder, "best").trainer.step == best
    assert trained(run.folder, "newest").trainer.step == 40
    assert trained(run.folder, "35").trainer.step == 35


def test_without_save_best_the_newest_is_taken(start):
    run = start()
    run.trainer.run()
    assert trained(run.folder).trainer.step == 12
    for word in ("best", "3", "last"):
        with pytest.raises(InputError, match=rf"newest or a step \(8, 12\); got {word}"):
            trained(run.folder, word)


def test_other_measures_are_followed_as_well(start, lines):
    run = start(**(KEYS | {"save_best": "r100"}), **OVERSHOOT)
    run.trainer.run()
    assert run.trainer.best.step == first_best(curve(lines(run.folder), "r100"))


def test_resumed_equals_never_stopped(start):
    whole = start("whole", **KEYS, **OVERSHOOT)
    whole.trainer.run()
    part = interrupt(start("part", **KEYS, **OVERSHOOT), 8)
    assert part.trainer.run() == signal.SIGTERM
    again = interrupt(reopen(part.folder), 32)  # in the warmup, then after the best
    assert again.trainer.run() == signal.SIGTERM
    again = reopen(part.folder)
    assert again.trainer.run() is None
    assert result(whole.folder) == result(again.folder)
    trees = [pack(run.trainer.parts.state_dict())[0] for run in (whole, again)]
    assert trees[0] == trees[1]
    assert kept(whole) == kept(again)
    assert whole.trainer.best == again.trainer.best
    best = [run.trainer.checkpoints.load_step(run.trainer.best.step) for run in (whole, again)]
    before, after = (pack(state["parts"])[1] for state in best)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_that_gets_no_better_ends(start, lines):
    whole = start("whole", **KEYS, **OVERSHOOT)
    whole.trainer.run()
    values = curve(lines(whole.folder))
    best = first_best(values)
    end = best + 2 * KEYS["eval_every"]

    run = start(**KEYS, **OVERSHOOT, early_stopping_patience=2)
    assert run.trainer.run() is None
    assert run.trainer.is_stopped_early
    assert run.trainer.step == end < 40
    assert kept(run) == [best, end - 5, end]
    written = lines(run.folder)
    assert written[-1] == {
        "step": end,
        "early_stopping/best_step": best,
        "early_stopping/best_mrr10": values[best],
        "early_stopping/evaluations_since": 2,
    }
    assert [line["step"] for line in written if "loss" in line][-1] == end
    assert curve(written) == {step: value for step, value in values.items() if step <= end}

    before = (run.folder / "metrics.jsonl").read_bytes()
    again = reopen(run.folder)
    assert again.trainer.is_stopped_early
    assert again.trainer.run() is None
    assert again.trainer.step == end
    assert (run.folder / "metrics.jsonl").read_bytes() == before
    assert kept(again) == kept(run)

    part = interrupt(start("part", **KEYS, **OVERSHOOT, early_stopping_patience=2), end - 4)
    assert part.trainer.run() == signal.SIGTERM
    again = reopen(part.folder)
    assert again.trainer.best.waited == 0  # the evaluation that was stopped is made again
    assert again.trainer.run() is None
    assert again.trainer.step == end
    assert result(again.folder) == result(run.folder)


def test_patience_begins_anew_with_every_improvement(start):
    run = start(**KEYS, early_stopping_patience=2)
    values, number = [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.2, 0.9], count()
    told = replace(run.trainer.parts, evaluate=lambda: {"mrr10": values[next(number)]})
    run.trainer.parts = told
    run.trainer.run()
    assert (run.trainer.step, run.trainer.best.step) == (28, 20)


def test_a_run_that_ends_with_its_patience_is_no_early_one(start, lines):
    run = start(**(KEYS | {"steps": 12}), early_stopping_patience=2)
    told = replace(run.trainer.parts, evaluate=lambda: {"mrr10": 0.5})
    run.trainer.parts = told
    run.trainer.run()
    assert run.trainer.step == 12
    assert not run.trainer.is_stopped_early
    assert not any("early_stopping/best_step" in line for line in lines(run.folder))


def test_a_fall_back_still_has_its_best(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step, best in ((10, 10), (20, 10), (30, 10), (40, 40)):
        checkpoints.save(step, {"step": step}, best)
    assert [path.name[-2:] for path in checkpoints.paths()] == ["10", "30", "40"]
    assert checkpoints.best() == 40
    (checkpoints.paths()[-1] / "state.json").write_text("{}")
    assert checkpoints.load(fall_back=True) == {"step": 30}
    assert checkpoints.best() == 10
    checkpoints.save(40, {"step": 40}, 40)
    checkpoints.save(50, {"step": 50}, 40)
    assert [path.name[-2:] for path in checkpoints.paths()] == ["40", "50"]
    assert (checkpoints.folder / "step-000000040.0.damaged").is_dir()


def test_a_best_that_is_gone_or_damaged_is_told(start):
    run = start(**KEYS, **OVERSHOOT)
    run.trainer.run()
    best = run.trainer.checkpoints.paths()[0]
    (best / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=f"damaged file .*{best.name}.*--checkpoint STEP"):
        trained(run.folder)
    best.rename(run.folder / "aside")
    with pytest.raises(InputError, match=rf"got {run.trainer.best.step}\. .*--checkpoint"):
        trained(run.folder)
    assert trained(run.folder, "newest").trainer.step == 40
