"""On one footing, who is best? Ours, peers through their own interface, and BM25 as the floor.

    python -m benchmarks.equal_footing [--regime static] [--tasks go debian] [--seconds 30]

The same tower (shared by both sides), Adam, batches, seeds and texts for all; budgets in CPU
seconds on one thread, all of a method on its clock (fills, refresh, mining). Learning rate (of
three) and one more setting (of two) of each method are chosen on dev with six trials of ``TUNING``
of the time, seed 0; test is looked at once. Runs take turns. ``ratio``: MRR@10 of ``auto`` over the
best peer's; intervals of the difference include the spread of seeds. Resumable per (regime, task,
seconds), trials and test apart. Needs pytorch-metric-learning and bm25s.
"""

import argparse
import json
import statistics
from itertools import product
from typing import Any

import bm25s
import numpy as np
import torch

from benchmarks.equal_footing import ours, peers
from benchmarks.equal_footing.intervals import paired_interval
from benchmarks.equal_footing.race import Runner, race
from benchmarks.record import append_rows, conclude, hardware, read_rows
from benchmarks.retrieval import Problem, fetched, some, static
from benchmarks.small_transformer import problem as transformer

NAME, BATCH, QUERIES = "equal_footing", 128, 1000
METHODS = ours.METHODS | peers.METHODS
REGIMES = {"static": lambda name: static(fetched(name)), "transformer": transformer}
RATES = {"static": (1e-3, 3e-3, 1e-2), "transformer": (3e-4, 1e-3, 3e-3)}
TUNING, SEEDS = 0.5, (0, 1, 2)


def tuned(problem: Problem, place: dict[str, Any]) -> dict[str, tuple[float, object]]:
    """Rate and setting of each method, by dev."""
    found = [r for r in _rows(place) if r["part"] == "trial"]
    if not found:
        found = []
        for rate, which in product(RATES[place["regime"]], (0, 1)):
            runners = {
                name: Runner(problem, method, rate, method.settings[which], seed=0, batch=BATCH)
                for name, method in METHODS.items()
            }
            race(runners.values(), TUNING * place["seconds"])
            for name, runner in runners.items():
                trial = {"part": "trial", "method": name, "rate": rate, "which": which, "seed": 0}
                found.append(place | trial | _measured(runner, "dev"))
        append_rows(NAME, found)
    best = {}
    for name, method in METHODS.items():
        row = max((r for r in found if r["method"] == name), key=lambda r: float(r["mrr10"]))
        best[name] = float(row["rate"]), method.settings[int(row["which"])]
    return best


def tested(problem: Problem, place: dict[str, Any], best: dict[str, tuple[float, object]]) -> None:
    """Each method with what was chosen, under each seed; kept with the values of every query."""
    if any(r["part"] == "test" for r in _rows(place)):
        return
    rows = []
    for seed in SEEDS:
        runners = {
            name: Runner(problem, METHODS[name], *chosen, seed=seed, batch=BATCH)
            for name, chosen in best.items()
        }
        race(runners.values(), place["seconds"])
        for name, runner in runners.items():
            rate, setting = best[name]
            which = METHODS[name].settings.index(setting)
            test = {"part": "test", "method": name, "rate": rate, "which": which, "seed": seed}
            rows.append(place | test | _measured(runner, "test"))
    append_rows(NAME, rows)


def _measured(runner: Runner, split: str) -> dict[str, Any]:
    found = runner.measured(split, QUERIES)
    values = [round(x, 4) for _, x in sorted(found.per_query["mrr10"].items())]
    row = {name: round(found.means[name], 5) for name in ("mrr10", "r1", "r100")}
    print(split, runner.objective.__class__.__name__, runner.steps, row, flush=True)
    counts = {"steps": runner.steps, "encoded": runner.objective.encoded}
    return row | counts | {"values": json.dumps(values) if split == "test" else ""} | hardware()


def floor(problem: Problem) -> float:
    """MRR@10 of BM25 on test."""
    task = problem.task
    judged = some(task.splits["test"], QUERIES)
    asked = judged.queries[judged.grades > 0].unique()
    texts = task.corpus_text.texts(torch.arange(len(task.corpus_text)))
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    words = bm25s.tokenize(task.query_text.texts(asked), show_progress=False)
    found, _ = index.retrieve(words, k=10, show_progress=False)
    right = {
        int(query): set(judged.items[(judged.queries == query) & (judged.grades > 0)].tolist())
        for query in asked
    }
    ranks = [
        next((1 / (at + 1) for at, item in enumerate(items) if int(item) in right[query]), 0.0)
        for query, items in zip(right, found, strict=True)
    ]
    return round(statistics.mean(ranks), 5)


def verdict(place: dict[str, Any]) -> dict[str, Any]:
    """Means over the seeds, best first, and ``auto`` against the best peer."""
    rows = [r for r in _rows(place) if r["part"] == "test"]
    values = {
        name: np.array([json.loads(r["values"]) for r in rows if r["method"] == name])
        for name in METHODS
    }
    means = {name: round(float(found.mean()), 4) for name, found in values.items()}
    order = sorted(means, key=lambda name: -means[name])
    best = next(name for name in order if name in peers.METHODS)
    low, high = paired_interval(values["auto"], values[best])
    return {
        "mrr10": {name: means[name] for name in order},
        "best_peer": best,
        "auto_over_best_peer": round(means["auto"] / means[best], 4),
        "difference_95": [round(low, 4), round(high, 4)],
    }


def _rows(place: dict[str, Any]) -> list[dict[str, str]]:
    return [r for r in read_rows(NAME) if all(r[k] == f"{v}" for k, v in place.items())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regime", choices=list(REGIMES), default="static")
    parser.add_argument("--tasks", nargs="+", default=["go", "debian"])
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    answer: dict[str, Any] = {"regime": options.regime, "seconds": options.seconds}
    for name in options.tasks:
        problem = REGIMES[options.regime](name)
        place = {"regime": options.regime, "task": name, "seconds": options.seconds}
        tested(problem, place, tuned(problem, place))
        answer[name] = verdict(place) | {"bm25": floor(problem)}
    conclude(NAME, answer)


if __name__ == "__main__":
    main()
