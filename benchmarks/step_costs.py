"""Does the counted cost of a step, by which ``auto`` chooses, foretell what steps take?

    python -m benchmarks.step_costs [--rounds 6]

One thread. Towers: static with 16,384 tokens (GO, cities) and a small transformer (GO). In-batch
negatives, uniform ones beside them, and cached ones beside them from the whole cache or a part;
batches of 128 and 1,024. Steps of all settings of a tower take turns. What counts is how the steps
of one tower and batch compare with its in-batch step: ``error`` is the median, over settings, of
``|log(foretold ratio / measured ratio)|``, ``worst`` the largest. ``--fit`` prints the prices that
fit best. Not resumable: some minutes.
"""

import argparse
import math
import statistics
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from scipy.optimize import nnls

import negcache as nc
from benchmarks.record import append_rows, conclude, hardware
from benchmarks.retrieval import Problem, Run, fetched, log_popularity, static
from benchmarks.small_transformer import problem as transformer
from negcache.samplers import step_costs
from negcache.samplers.step_costs import StepCosts

NAME, STEPS = "step_costs", 4
PRICES = ("STEP", "DRAW", "PARAMETER", "ITEM", "WRITTEN", "FLOP", "PAIR", "TERM", "KEY")


class Setting(NamedTuple):
    """A step: so many draws a query beside the batch's positives, cached ones of a share."""

    each: int = 0
    scored: float = 0.0


SETTINGS = {
    128: [Setting(), *map(Setting, (1, 4, 16)), Setting(1, 1.0), Setting(4, 1.0), Setting(1, 0.25)],
    1024: [Setting(), *map(Setting, (1, 4)), Setting(1, 1.0), Setting(1, 0.0625)],
}


def built(problem: Problem, batch: int, setting: Setting) -> Run:
    """A run with what the setting says."""

    def build(store, task):
        shares = log_popularity(task)
        if not setting.each:
            return nc.InBatch(shares), nc.log_q_corrected
        uniform = nc.Uniform(task.corpus, setting.each)
        cached = nc.CachedSoftmax(store, setting.each, scored=setting.scored or 1.0)
        inner = cached if setting.scored else uniform
        return nc.SharedDraws(inner, log_popularity=shares), nc.log_q_corrected

    return Run(problem, build, 1e-3, seed=0, batch=batch, refreshed=batch)


def costs_of(run: Run) -> StepCosts:
    """As ``auto`` counts them."""
    parameters = sum(each.numel() for each in run.tower.parameters())
    flops = run.loss.encoder.flops(torch.arange(8))
    return StepCosts(run.batch, run.problem.dim, len(run.problem.items), flops, parameters)


def parts(costs: StepCosts, batch: int, setting: Setting) -> dict[str, float]:
    """What stands beside each price in the cost of a step: it is linear in them."""
    found, drawn = {}, batch * setting.each
    for name in PRICES:
        with patch.dict(vars(step_costs), {each: float(each == name) for each in PRICES}):
            found[name] = costs.step(drawn, setting.scored, batch if setting.scored else 0)
    return found


def measured(tower: str, problem: Problem, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Median milliseconds of a step of each setting, and what is foretold."""
    runs = {setting: built(problem, batch, setting) for setting in SETTINGS[batch]}
    taken: dict[Setting, list[float]] = {setting: [] for setting in runs}
    for run in runs.values():
        list(run.train(steps=STEPS))
    for _ in range(rounds):
        for setting, run in runs.items():
            before = run.seconds
            list(run.train(steps=run.step + STEPS))
            taken[setting].append((run.seconds - before) / STEPS)
    rows = []
    for setting, run in runs.items():
        costs = costs_of(run)
        told = costs.step(batch * setting.each, setting.scored, batch if setting.scored else 0)
        row = {"tower": tower, "items": costs.num_items, "batch": batch, **setting._asdict()}
        row |= {"ms": round(1e3 * statistics.median(taken[setting]), 3)}
        row |= {"foretold_ms": round(1e3 * told, 3), **parts(costs, batch, setting)}
        print(row, flush=True)
        rows.append(row)
    return rows


def errors(rows: list[dict[str, Any]]) -> list[float]:
    """Of the foretold ratio to the in-batch step of the same tower and batch, in logs."""
    found, alone = [], {}
    for row in rows:
        place = row["tower"], row["items"], row["batch"]
        alone.setdefault(place, row)
        told = row["foretold_ms"] / alone[place]["foretold_ms"]
        found.append(abs(math.log(told / (row["ms"] / alone[place]["ms"]))))
    return [error for error, row in zip(found, rows, strict=True) if row["each"]]


def fitted(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The prices with the least squared relative error."""
    counts = np.array([[row[name] for name in PRICES] for row in rows])
    seconds = np.array([row["ms"] for row in rows]) / 1e3
    scale = counts.max(axis=0)
    found, _ = nnls(counts / scale / seconds[:, None], np.ones(len(rows)))
    return {name: float(f"{x / s:.3g}") for name, x, s in zip(PRICES, found, scale, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--fit", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in ("go", "cities"):
        problem = static(fetched(name))
        for batch in SETTINGS:
            rows += measured("static", problem, batch, options.rounds)
    rows += measured("transformer", transformer("go"), 128, max(2, options.rounds // 3))
    if options.fit:
        print(fitted(rows))
    kept = [{k: v for k, v in row.items() if k not in PRICES} | hardware() for row in rows]
    append_rows(NAME, kept)
    found = errors(rows)
    answer = {"error": round(statistics.median(found), 3), "worst": round(max(found), 3)}
    conclude(NAME, answer)


if __name__ == "__main__":
    main()
