"""Processes that are killed, stopped or run out of disk end as if nothing had been."""

import json
import random
import resource
import signal
import subprocess
import sys

import pytest

from benchmarks import soak

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return soak.prepare(tmp_path_factory.mktemp("killed"))


@pytest.fixture(autouse=True)
def same_cache(config, monkeypatch):
    monkeypatch.setenv("NEGCACHE_CACHE", str(config.parent / "cache"))


@pytest.fixture(scope="module")
def whole(config):
    """What an uninterrupted run comes to."""
    run = config.parent / "whole"
    done = soak.finish(soak.negcache("train", config, "--out", run))
    assert done.returncode == 0, done.stderr
    return soak.result(run)


def test_sigkill_at_three_moments(config, whole):
    """One run, killed three times, the second time inside a checkpoint write."""
    run, rng = config.parent / "killed", random.Random(11)
    first, last = rng.randrange(3, 20), rng.randrange(30, 40)  # lines of metrics, 5 steps each
    process = soak.negcache("train", config, "--out", run)
    assert soak.kill_at_line(process, run, first, process.kill)
    assert soak.finish(process).returncode == -signal.SIGKILL
    kill_inside(run, after=5 * first)
    assert list((run / "checkpoints").glob(".step-*"))
    process = soak.negcache("resume", run)
    assert soak.kill_at_line(process, run, last, process.kill)
    assert soak.finish(process).returncode == -signal.SIGKILL
    assert soak.finish(soak.negcache("resume", run)).returncode == 0
    assert soak.result(run) == whole


@pytest.mark.slow
def test_sigkill_while_a_better_evaluation_is_waited_for(config):
    """The best measure and the patience are those of a run that was not killed."""
    wanted = {
        "steps": 40,
        "log_every": 4,
        "eval_every": 4,
        "checkpoint_every": 1,
        "early_stopping_patience": 2,
        "optimizer.lr": 1.0,
        "schedule.warmup_steps": 30,  # as the rate rises, so does the measure, then it falls
    }
    words = [word for item in wanted.items() for word in ("--set", "{}={}".format(*item))]
    whole, run = (config.parent / name for name in ("early", "early-killed"))
    done = soak.finish(soak.negcache("train", config, *words, "--out", whole))
    assert "Stopped early at step" in done.stdout
    lines = (whole / "metrics.jsonl").read_bytes().count(b"\n")
    process = soak.negcache("train", config, *words, "--out", run)
    assert soak.kill_at_line(process, run, lines - 3, process.kill)  # the first that was not better
    assert soak.finish(process).returncode == -signal.SIGKILL
    done = soak.finish(soak.negcache("resume", run))
    assert "Stopped early at step" in done.stdout
    assert soak.result(run) == soak.result(whole)


def kill_inside(run, after):
    """Resume and kill until the kill meets a half-written checkpoint; it may come too late."""
    landed = False
    while not landed:
        process = soak.negcache("resume", run)
        landed = soak.kill_inside_checkpoint(process, run, after, process.kill)
        assert soak.finish(process).returncode == -signal.SIGKILL


def limit_files():
    """The next file may not grow beyond 30 kB: smaller than one checkpoint."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))


def test_sigterm_then_a_full_disk_then_the_end(config, whole):
    run = config.parent / "stopped"
    process = soak.negcache("train", config, "--out", run)
    assert soak.kill_at_line(process, run, 4, process.terminate)
    done = soak.finish(process)
    assert done.returncode == 128 + signal.SIGTERM
    assert f"To go on: negcache resume {run}" in done.stderr
    before = sorted((run / "checkpoints").iterdir())

    done = soak.finish(soak.negcache("resume", run, preexec_fn=limit_files))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "make room on the disk" in done.stderr
    assert sorted((run / "checkpoints").iterdir()) == before

    assert soak.finish(soak.negcache("resume", run)).returncode == 0
    assert soak.result(run) == whole


def test_every_command_killed_at_any_moment(tmp_path):
    """The soak, shortened; its processes are forks of one that has no threads."""
    told = "from benchmarks.soak_commands import soak; from pathlib import Path; import sys, json; "
    told += "print(json.dumps(soak(12, folder=Path(sys.argv[1]))))"
    command = [sys.executable, "-c", told, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["kills"] >= 12
    assert figures["two_at_once"]
    assert figures["unequal"] == figures["left_behind"] == figures["duplicated_steps"] == 0
