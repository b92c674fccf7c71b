"""The main job on real data: one retriever trained three ways, compared, and asked."""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from negcache.run.cli.runs import Run, evaluate_run, reopen, start, trained
from negcache.run.cli.searching import Searcher, open_searcher, prompt, show
from negcache.run.training import Config
from negcache.run.training.config import parse_config

METHODS = {
    "in_batch": {"name": "in_batch"},
    "uniform": {"name": "uniform"},
    "cached": {"name": "cached"},
}
LABELS = {
    "in_batch": "in-batch: the batch's other answers",
    "uniform": "uniform: 128 random entries a step",
    "cached": "negative cache: 128 likely entries a step",
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


@dataclass(frozen=True)
class Outcome:
    """What one method came to."""

    method: str
    mrr10: float
    r1: float
    seconds: float
    encoded: int


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
    _ask(console, open_searcher(trained(out / "cached", locked=False)), out / "cached")
    return None


def _config(method: str, steps: int) -> Config:
    return parse_config(BASE | {"steps": steps, "sampler": METHODS[method]})


def _digest(steps: int) -> str:
    """Names a folder after the settings, so that others never meet its runs."""
    settings = [_config(method, steps).model_dump() for method in METHODS]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]


def _open(folder: Path, config: Config) -> Run:
    return reopen(folder) if folder.exists() else start(config, folder)


def _outcome(method: str, run: Run) -> Outcome:
    """Measure a finished run, or read what was measured before."""
    path = run.folder / "evaluation" / "test.json"
    means = json.loads(path.read_text()) if path.exists() else evaluate_run(run, "test")
    counts = _last(run.folder / "metrics.jsonl")
    return Outcome(
        method,
        means["mrr10"],
        means["r1"],
        _last(run.folder / "timings.jsonl")["wall"],
        int(counts["encoded_grad_total"] + counts["encoded_nograd_total"]),
    )


def _last(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text().splitlines()[-1])


def _compare(console: Console, outcomes: list[Outcome]) -> None:
    """The table, and what it says."""
    table = Table(title="Held-out queries, exact search over all 117,659 entries")
    table.add_column("negatives")
    for name in ("MRR@10", "R@1", "train seconds", "items encoded"):
        table.add_column(name, justify="right")
    for o in outcomes:
        values = f"{o.mrr10:.3f}", f"{o.r1:.3f}", f"{o.seconds:.0f}", f"{o.encoded:,}"
        table.add_row(LABELS[o.method], *values)
    console.print()
    console.print(table)
    in_batch, uniform, cached = outcomes
    console.print(
        f"At equal steps the cache finds the right entry first for {cached.r1:.1%} of the queries, "
        f"uniform negatives for {uniform.r1:.1%}, in-batch negatives for {in_batch.r1:.1%}.\n"
        f"In MRR@10 the cache is {cached.mrr10 / uniform.mrr10 - 1:+.1%} against uniform and "
        f"{cached.mrr10 / in_batch.mrr10 - 1:+.1%} against in-batch negatives. It encoded "
        f"{cached.encoded / uniform.encoded:.1f} times the items of uniform (filling the cache "
        f"and refreshing it, without gradient) and took {cached.seconds / uniform.seconds:.1f} "
        "times as long: it pays where encoding is dear or items are easily confused.",
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
Three retrievers, alike but for their negatives, are trained for {steps} steps each.
Runs are kept in {out}; an interrupted demo goes on where it was."""
