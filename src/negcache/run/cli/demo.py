"""The main job on real data: one retriever trained four ways, compared, and asked."""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from negcache.run.cli.compare import write_comparison
from negcache.run.cli.comparing.history import History, read_history
from negcache.run.cli.evaluating import evaluate_run
from negcache.run.cli.runs import Run, reopen, start, trained
from negcache.run.cli.searching import Searcher, open_searcher, prompt, show
from negcache.run.training import Config
from negcache.run.training.config import parse_config

METHODS = {
    "in_batch": {"name": "in_batch"},
    "uniform": {"name": "uniform"},
    "cached": {"name": "cached"},
    "auto": {"name": "auto"},
}
SHORT = {"in_batch": "in-batch", "uniform": "uniform", "cached": "negative cache", "auto": "auto"}
LABELS = {
    "in_batch": "in-batch: the batch's other answers",
    "uniform": "uniform: 128 random entries a step",
    "cached": "negative cache: 128 likely entries a step",
    "auto": "auto: the batch's, and what else is worth its cost",
}
SAMPLES = ("mercury : the mercury in the thermometer rose", "court : the tennis court was wet")
BASE: dict[str, Any] = {
    "data": {"source": "wordnet-sense"},
    "tower": {"dim": 64, "width": 256},
    "score": {"temperature": 0.05},
    "cache": {"refresh_rows": 128},
    "optimizer": {"name": "adam", "lr": 2e-3},
    "batch_size": 128,
    "device": "cpu",
    "log_every": 50,
    "checkpoint_every": 250,
}


POINTS = 3
"""Measurements on dev while a method trains."""


@dataclass(frozen=True)
class Outcome:
    """What one method came to.

    Args:
        mrr10, r1: of test.
        history: what it cost, and MRR@10 of dev on the way.
    """

    method: str
    mrr10: float
    r1: float
    history: History

    @property
    def seconds(self) -> float:
        """Of training, the fill of a cache among them."""
        return self.history.seconds

    @property
    def encoded(self) -> int:
        """Items, with gradient and without."""
        return self.history.encoded_grad + self.history.encoded_nograd

    def after(self, seconds: float) -> float:
        """MRR@10 on dev after so many seconds of training, between two measurements in a line."""
        dev = self.history.dev["mrr10"]
        times, values = np.array([0.0, *dev.seconds]), np.array([0.0, *dev.values])
        return float(np.interp(seconds, times, values))


def run_demo(out: Path | None, steps: int) -> int | None:
    """Train, compare, ask. Returns the number of the signal that stopped it, if any.

    Args:
        out: folder of the runs; None: a folder named after the settings. What is there is used.
        steps: of each method.
    """
    console, outcomes = Console(), []
    out = out or Path("runs") / f"demo-{_digest(steps)}"
    console.print(_INTRODUCTION.format(steps=steps, out=out), markup=False, soft_wrap=True)
    for method in METHODS:
        console.print(f"\n{LABELS[method]}", style="bold")
        with _open(out / method, _config(method, steps)) as run:
            stopped = run.trainer.run() if run.trainer.step < steps else None
            if stopped is not None:
                return stopped
            outcomes.append(_outcome(method, run))
    _compare(console, outcomes)
    write_comparison([out / method for method in METHODS], "test", "mrr10", out / "comparison")
    page = out / "comparison" / "comparison.html"
    console.print(f"Curves, and which differences are more than chance: {page}", soft_wrap=True)
    with open_searcher(trained(out / "cached", locked=False)) as searcher:
        _ask(console, searcher, out / "cached")
    return None


def _config(method: str, steps: int) -> Config:
    measured = max(1, steps // POINTS)
    return parse_config(BASE | {"steps": steps, "eval_every": measured, "sampler": METHODS[method]})


def _digest(steps: int) -> str:
    """Names a folder after the settings, so that others never meet its runs."""
    settings = [_config(method, steps).model_dump() for method in METHODS]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]


def _open(folder: Path, config: Config) -> Run:
    return reopen(folder) if folder.exists() else start(config, folder)


def _outcome(method: str, run: Run) -> Outcome:
    """Measure a finished run, or read what was measured before."""
    path = run.folder / "evaluation" / "test.json"
    means = json.loads(path.read_text()) if path.exists() else evaluate_run(run, "test").means
    history = read_history(run.folder, run.trainer.step)
    return Outcome(method, means["mrr10"], means["r1"], history)


def _compare(console: Console, outcomes: list[Outcome]) -> None:
    """The table, and what it says."""
    least = min(outcome.seconds for outcome in outcomes)
    table = Table(title="Exact search over all 117,659 entries: held-out queries, at equal steps")
    table.add_column("negatives")
    after = f"on dev after {least:.0f} s"
    for name in ("MRR@10", "R@1", "train seconds", "items encoded", after):
        table.add_column(name, justify="right")
    for o in outcomes:
        values = f"{o.mrr10:.3f}", f"{o.r1:.3f}", f"{o.seconds:.0f}", f"{o.encoded:,}"
        table.add_row(SHORT[o.method], *values, f"{o.after(least):.3f}")
    console.print()
    console.print(table)
    steps = max(outcomes, key=lambda one: one.mrr10)
    time = max(outcomes, key=lambda one: one.after(least))
    console.print(
        f"At equal steps the best is {SHORT[steps.method]} (MRR@10 {steps.mrr10:.3f}); at equal "
        f"seconds, after {least:.0f}, it is {SHORT[time.method]} ({time.after(least):.3f} on dev, "
        "between two measurements in a line).\nA cache pays where encoding is dear or items are "
        "easily confused. Here encoding is cheap: auto chooses by that.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _ask(console: Console, searcher: Searcher, folder: Path) -> None:
    """Two queries of ours, then the user's where there is one."""
    console.print("\nAsk the retriever trained with the cache for a word in context:")
    for text in SAMPLES:
        show(console, searcher, text, 5)
    if sys.stdin.isatty():
        prompt(console, searcher, 5, 'Type "word : a sentence with the word".')
    console.print(f"To ask more: negcache search {folder}", markup=False)


_INTRODUCTION = """\
Task: find the WordNet entry that a word means in its sentence, among 117,659 entries.
Four retrievers, alike but for their negatives, are trained for {steps} steps each.
Runs are kept in {out}; an interrupted demo goes on where it was."""
