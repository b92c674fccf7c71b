"""Every command killed at any moment: ``python -m benchmarks.soak`` runs this.

Each kill is a SIGKILL to one process that prepares data, fills a cache, trains, resumes, evaluates
or exports; the same command, or ``resume``, is given again, and what there is in the end is
compared byte by byte with what nobody killed. Between, two processes are started on one run at
once.

A process is a fork of this one, so that it begins at once. What has been done is kept in the
folder, and ``--folder`` goes on with it.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

import negcache.run.cli.runs
import negcache.towers.static_model  # noqa: F401, slow to import: once, not in every fork
from benchmarks.soak import CONFIG, hash_of_bytes, result, write_task
from negcache.run.cli.app import main

STEPS, ITEMS = 40, 5000
MORE = "[cache]\nrefresh_rows = 5\nfill_checkpoint_seconds = 1e-6\n"


class Whole(NamedTuple):
    """What comes out where nobody kills, and how many seconds each command takes."""

    run: dict[str, str]
    evaluation: dict[str, str]
    model: dict[str, str]
    seconds: dict[str, float]


class Soak:
    """A folder with a task, an uninterrupted run, and the one that is killed.

    Args:
        folder: of all that.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "small.toml"
        self.home, self.cache, self.whole = folder / "home", folder / "cache", folder / "whole"
        self.run, self.kept = self.home / "run", folder / "kills.jsonl"
        if not self.config.exists():
            task = write_task(folder / "task", ITEMS)
            text = CONFIG.format(steps=STEPS, source=task).replace(
                "cache = { refresh_rows = 5 }\n", ""
            )
            self.config.write_text(text.replace("warmup_steps = 40", "warmup_steps = 10") + MORE)

    def fork(self, *words: object, cache: Path | None = None) -> int:
        """Number of a process that gives this command."""
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            told = os.open(self.folder / "told.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(told, 1)
            os.dup2(told, 2)
            os.environ["NEGCACHE_CACHE"] = str(cache or self.cache)
            sys.argv = ["negcache", *map(str, words)]
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def done(self, *words: object, cache: Path | None = None) -> float:
        """Give a command and wait for its end; seconds."""
        start = time.perf_counter()
        _, status = os.waitpid(self.fork(*words, cache=cache), 0)
        if status:
            told = (self.folder / "told.txt").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{words} ended with {status}: {told}")
        return time.perf_counter() - start

    def train(self) -> tuple[object, ...]:
        """What begins the run, or goes on with it."""
        begun = (self.run / "config.json").exists()
        return ("resume", self.run) if begun else ("train", self.config, "--out", self.run)

    def measured(self) -> Whole:
        """Everything once, without a kill."""
        words = "train", self.config, "--out", self.whole
        seconds = {"prepare": self.done(*words)}
        shutil.rmtree(self.whole)
        seconds["train"] = seconds["resume"] = seconds["fill"] = self.done(*words)
        shutil.rmtree(self.folder / "model", ignore_errors=True)
        seconds["evaluate"] = self.done("evaluate", self.whole)
        seconds["export"] = self.done("export", self.whole, self.folder / "model")
        evaluation, model = hashes(self.whole / "evaluation"), hashes(self.folder / "model")
        return Whole(result(self.whole), evaluation, model, seconds)

    def kill(self, words: tuple[object, ...], moment: Callable[[int], None], **more: Path) -> bool:
        """Give a command and kill it at a moment; whether it had not ended before."""
        child = self.fork(*words, **more)
        moment(child)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status)

    def one(self, command: str, rng: random.Random, whole: Whole) -> dict[str, object] | None:
        """One kill or two, and the end; None: it came too late."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir()
        at = lambda: after(rng.uniform(0, whole.seconds[command]))  # noqa: E731
        if command in ("evaluate", "export"):
            shutil.copytree(self.whole, self.run)
            shutil.rmtree(self.run / "evaluation")
            words = (command, self.run, *([self.home / "model"] if command == "export" else []))
            if not self.kill(words, at()):
                return None
            if command == "export" and (self.home / "model").exists():
                return None  # it was done, and only had not ended
            self.done(*words)
            made = self.run / "evaluation" if command == "evaluate" else self.home / "model"
            wanted = whole.evaluation if command == "evaluate" else whole.model
            return self.told(command, 1, hashes(made) == wanted)
        cache = self.folder / "other" if command == "prepare" else self.cache
        if command == "prepare":
            shutil.rmtree(cache, ignore_errors=True)
        moment = at()
        if command == "fill":
            moment = seen(self.run / "fill", "0/*step-*", rng)
        elif command == "train" and rng.random() < 0.5:
            moment = seen(self.run / "checkpoints", ".step-*", rng)
        kills = int(self.kill(self.train(), moment, cache=cache))
        if command == "resume":
            kills += self.kill(self.train(), at(), cache=cache)
        if not kills:
            return None
        kept = len(list((self.run / "fill").glob("0/step-*")))
        more = {"kept_of_fill": kept} if command == "fill" else {}
        self.done(*self.train(), cache=cache)
        names = sorted(path.name for path in (cache / "tasks").iterdir())
        same = names == sorted(path.name for path in (self.cache / "tasks").iterdir()) or (
            command != "prepare"
        )
        return self.told(command, kills, same and result(self.run) == whole.run, cache) | more

    def two(self, number: int, rng: random.Random, whole: Whole) -> dict[str, object]:
        """Two at once: one works, the other is told who does; no step is written twice."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir()
        if number % 2:  # they make the folder; else they go on with it
            self.kill(self.train(), after(rng.uniform(0.5, 1) * whole.seconds["train"]))
        words = self.train()
        ends = [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in self.pair(words)]
        refused = ends.count(2)
        if refused == 2:  # neither got through: none did harm either
            self.done(*self.train())
        lines = (self.run / "metrics.jsonl").read_text().splitlines()
        steps = Counter(one["step"] for one in map(json.loads, lines) if "loss" in one)
        twice = sum(count - 1 for count in steps.values())
        told = self.told("two at once", 0, result(self.run) == whole.run)
        return told | {"duplicated": twice, "refused": refused, "ends": sorted(ends)}

    def pair(self, words: tuple[object, ...]) -> list[int]:
        """Two processes that give one command."""
        return [self.fork(*words) for _ in range(2)]

    def told(
        self, command: str, kills: int, equal: bool, cache: Path | None = None
    ) -> dict[str, object]:
        """What came out."""
        left = [str(path) for place in (self.home, cache or self.cache) for path in hidden(place)]
        return {"command": command, "kills": kills, "equal": equal, "left": left}


def after(seconds: float) -> Callable[[int], None]:
    """A moment."""
    return lambda _: time.sleep(seconds)


def seen(folder: Path, pattern: str, rng: random.Random) -> Callable[[int], None]:
    """The moment when a few files of such names have been made, or are being made."""
    wanted, names = rng.randrange(1, 6), set[str]()

    def moment(child: int) -> None:
        while len(names) < wanted:
            names.update(path.name for path in folder.glob(pattern))
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return

    return moment


def hidden(folder: Path) -> list[Path]:
    """What a killed process may leave."""
    return [path for path in folder.rglob(".*") if path.name != ".lock"]


def hashes(folder: Path) -> dict[str, str]:
    """Of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hash_of_bytes(path.read_bytes()) for path in files}


COMMANDS = ("train", "fill", "prepare", "evaluate", "export", "resume")
EVERY = 10
"""Kills between two that are started at once."""


def soak(kills: int = 200, seed: int = 0, folder: Path | None = None) -> dict[str, object]:
    """Kill and compare until so many kills are done; the figures."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    here = folder or Path(tempfile.mkdtemp(prefix="negcache-soak-"))
    here.mkdir(parents=True, exist_ok=True)
    one = Soak(here)
    shutil.rmtree(one.whole, ignore_errors=True)
    whole, number = one.measured(), 0
    lines = one.kept.read_text().splitlines() if one.kept.exists() else []
    done = [json.loads(line) for line in lines]
    number = max((each["number"] for each in done), default=-1) + 1
    while sum(each["kills"] for each in done) < kills:
        rng = random.Random(1_000_003 * seed + number)
        if number % EVERY == EVERY - 1:
            found = one.two(number // EVERY, rng, whole)
        else:
            found = one.one(COMMANDS[number % len(COMMANDS)], rng, whole)
        if found is not None:
            done.append(found | {"number": number})
            with one.kept.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
            print(json.dumps(done[-1]), flush=True)
        number += 1
    seconds = round(time.perf_counter() - start)
    if folder is None:
        shutil.rmtree(here)
    return summed(done) | {"seconds": seconds}


def summed(done: list[dict]) -> dict[str, object]:
    """The figures of all that was done."""
    by = Counter[str]()
    for each in done:
        by[each["command"]] += each["kills"]
    pairs = [each for each in done if each["command"] == "two at once"]
    return {
        "kills": sum(each["kills"] for each in done),
        "unequal": sum(not each["equal"] for each in done),
        "left_behind": sum(len(each["left"]) for each in done),
        **{f"kills_{command}": by[command] for command in COMMANDS},
        "two_at_once": len(pairs),
        "refused": sum(each["refused"] for each in pairs),
        "duplicated_steps": sum(each["duplicated"] for each in pairs),
    }
