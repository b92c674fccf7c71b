"""What does a cache of a part of the corpus cost in quality?

    python -m benchmarks.cache_size_sweep [--steps 1000]

GO, static towers, batch 128, 128 shared draws, Adam at 3e-3, one seed. The cache holds a uniform
subset of 1/64 ... 1 of the corpus; 128 of its rows move on each step (all, where it holds fewer),
and each row stands for 1 / fraction items (methods of row weights). ``uniform``: no cache at all.
Resumable per (fraction, seed).
"""

import argparse
import statistics

import torch

import negcache as nc
from benchmarks.record import append_rows, conclude, curves, hardware, read_rows
from benchmarks.retrieval import Run, fetched, static
from negcache.interfaces import Estimator, Sampler, Store
from negcache.run.data import Task

NAME, RATE, QUERIES, SEEDS = "cache_size_sweep", 3e-3, 2000, (0,)
PARTS = (64, 32, 16, 8, 4, 2, 1)


def _cached(store: Store, task: Task) -> tuple[Sampler, Estimator]:
    return nc.SharedDraws(nc.CachedSoftmax(store, 1)), nc.log_q_corrected


def _uniform(store: Store, task: Task) -> tuple[Sampler, Estimator]:
    return nc.SharedDraws(nc.Uniform(task.corpus, 1)), nc.log_q_corrected


def measure(part: int | None, seed: int, steps: int) -> None:
    """One run; a finished one is not run again. ``part`` None: uniform draws."""
    name = "uniform" if part is None else f"1/{part}"
    key = (name, str(seed), str(steps))
    if any((r["size"], r["seed"], r["step"]) == key for r in read_rows(NAME)):
        return
    problem = static(fetched("go"))
    num_items = len(problem.items)
    size = num_items // (part or 1)
    store = nc.SubsetCache(num_items, problem.dim, size, refresh=min(1.0, 128 / size), seed=seed)
    run = Run(problem, _uniform if part is None else _cached, RATE, seed, store=store)
    *_, figures = run.train(steps=steps)
    row = {"size": name, "rows": 0 if part is None else size, "seed": seed} | figures
    row |= run.test("test", QUERIES) | run.train_ce() | hardware()
    append_rows(NAME, [row])
    print(*list(row.items())[:10], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    for seed in SEEDS:
        for part in (None, *PARTS):
            measure(part, seed, steps)
    rows = [r for r in read_rows(NAME) if r["step"] == str(steps)]
    lines = {
        f"seed {seed}": [
            (max(float(r["rows"]), 128.0), float(r["mrr10"]))
            for r in rows
            if r["seed"] == str(seed)
        ]
        for seed in SEEDS
    }
    curves(NAME, {"GO; the leftmost point is uniform": lines}, "cached rows", "MRR@10", log_x=True)
    sizes = ["uniform", *(f"1/{part}" for part in PARTS)]
    means = {
        size: statistics.mean(float(r["mrr10"]) for r in rows if r["size"] == size)
        for size in sizes
    }
    conclude(NAME, {size: round(mean / means["1/1"], 4) for size, mean in means.items()})


if __name__ == "__main__":
    main()
