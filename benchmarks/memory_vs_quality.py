"""What quality does a byte of memory on the training device buy, and an encoding?

    python -m benchmarks.memory_vs_quality [--seeds 3] [--methods uniform index_96]

The trade-off of Monath et al. (AISTATS 2023) on GO: synonym -> definition, 22,047 items, static
towers of D = 192, batch 128, 128 shared negatives, 2,000 steps of Adam at 3e-3, scale 20. R@1 over
2,000 held-out queries and all items; MRR@10 beside it.

``exhaustive`` draws from the exact softmax over encodings at most 20 steps old: the yardstick.
``cache_*`` is the negative cache over a share of the corpus, 128 rows renewed a step. ``snm_*``:
stochastic negative mining, each query's hardest of a pool that is drawn and encoded anew every 20
steps, shared, weight 0; ``*_uniform`` with as many uniform negatives beside them, as published.
``ance``: one of the best 200 of an exact index, encoded anew every 100 steps. ``index_L``: the
dynamic index, L landmarks: proposals by 192 clusters, 16 a query, resampled by low-rank coordinates
that an anchored ridge follows every 10 steps; ``index_96_cells`` draws by the clusters alone.

``device_rows`` counts vectors of items that the device must hold between steps and while it draws,
in rows of D floats: cached rows, pools; for the index landmarks, sample, basis, map, centres, flags
and the block of coordinates that is scored at a time. Rows that the loss encodes are common to all
and left out. Coordinates of all items and the members of clusters are in ordinary memory. The share
is that of N rows. Three seeds for the methods that the answer compares, one for the others.
Resumable per (method, seed).
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import negcache as nc
from benchmarks.record import append_rows, conclude, curves, hardware, read_rows
from benchmarks.retrieval import Problem, Run, fetched, log_popularity, static
from negcache.draws import draw
from negcache.indexes.clusters import KMeansClusters
from negcache.interfaces import Sampler, Store
from negcache.messages import Draw, Request
from negcache.samplers import StaleTopK
from negcache.stores import Snapshot

NAME, D, RATE, STEPS, QUERIES = "memory_vs_quality", 192, 3e-3, 2000, 2000
ROWS = 256
CACHES, POOLS, LANDMARKS = (1, 3, 10, 30, 100), (1, 3, 10), (32, 64, 96, 128)
CLUSTERS, POOL, EVERY, SAMPLE = 192, 16, 10, 128
METRIC = "r1"
SEEDED = ("uniform", "exhaustive", "snm_3", "snm_3_uniform", "index_64", "index_96", "index_128")
"""Methods that the answer compares; the place of the others is clear from one seed."""

Made = tuple[Store | None, Sampler, float]
"""A store, the sampler over it, and rows of D floats that the device holds for them."""


class Beside:
    """Two shared draws of different samplers, one after the other, each with its own weights."""

    has_density = False

    def __init__(self, first: Sampler, second: Sampler) -> None:
        self.first, self.second, self.store = first, second, first.store

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        parts = [draw(sampler, request, generator) for sampler in (self.first, self.second)]
        ids, place = torch.unique(torch.cat([part.ids for part in parts]), return_inverse=True)
        weight = torch.full((len(request.queries), len(ids)), -torch.inf)
        for part, where in zip(parts, place.split([len(p.ids) for p in parts]), strict=True):
            weight[:, where] = torch.maximum(weight[:, where], part.log_weight)
        return Draw(ids, None, weight)


class Unweighted:
    """A sampler's shared draws with weight 0: the loss is a softmax over these alone."""

    has_density = False

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.store = sampler, sampler.store

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        drawn = draw(self.sampler, request, generator)
        weight = drawn.log_weight.masked_fill(drawn.log_weight > -torch.inf, 0.0)
        return Draw(drawn.ids, None, weight)


def _in_batch(problem: Problem, seed: int) -> Made:
    return None, nc.InBatch(log_popularity(problem.task)), 0


def _uniform(problem: Problem, seed: int) -> Made:
    return None, nc.SharedDraws(nc.Uniform(problem.items, 1)), 0


def _cached(percent: int) -> Callable[[Problem, int], Made]:
    def build(problem: Problem, seed: int) -> Made:
        size = len(problem.items) * percent // 100
        rho = min(1.0, 128 / size)
        store = nc.SubsetCache(len(problem.items), D, size, refresh=rho, seed=seed)
        return store, nc.SharedDraws(nc.CachedSoftmax(store, 1)), size

    return build


def _snm(percent: int, uniform: bool) -> Callable[[Problem, int], Made]:
    def build(problem: Problem, seed: int) -> Made:
        num_items = len(problem.items)
        size = num_items * percent // 100
        store = nc.SubsetCache(num_items, D, size, refresh=Snapshot(20), seed=seed)
        sampler: Sampler = StaleTopK(store, 1, shared=True)
        if uniform:
            sampler = Beside(sampler, Unweighted(nc.SharedDraws(nc.Uniform(problem.items, 1))))
        return store, sampler, size

    return build


def _ance(problem: Problem, seed: int) -> Made:
    num_items = len(problem.items)
    store = nc.DenseCache(num_items, D, refresh=Snapshot(100))
    return store, StaleTopK(store, 1, depth=200, shared=True), num_items


def _exhaustive(problem: Problem, seed: int) -> Made:
    store = nc.DenseCache(len(problem.items), D, refresh=1 / 20)
    return store, nc.SharedDraws(nc.CachedSoftmax(store, 1)), len(problem.items)


def _index(landmarks: int, resampled: bool = True) -> Callable[[Problem, int], Made]:
    def build(problem: Problem, seed: int) -> Made:
        num_items = len(problem.items)
        store = nc.LowRankCache(
            num_items, D, landmarks=landmarks, every=EVERY, sample=SAMPLE, seed=seed
        )
        clusters = KMeansClusters(CLUSTERS, seed=seed)
        floats = store.held.on_device / 4 + CLUSTERS * (landmarks + 4)
        if resampled:
            sampler: Sampler = nc.Resampled(nc.DynamicIndex(store, POOL, index=clusters))
            floats += ROWS * (landmarks + 1)
        else:
            sampler = nc.SharedDraws(nc.DynamicIndex(store, 1, index=clusters))
        return store, sampler, floats / D

    return build


METHODS: dict[str, Callable[[Problem, int], Made]] = {
    "uniform": _uniform,
    "exhaustive": _exhaustive,
    **{f"snm_{percent}": _snm(percent, False) for percent in POOLS},
    **{f"snm_{percent}_uniform": _snm(percent, True) for percent in POOLS},
    **{f"index_{count}": _index(count) for count in LANDMARKS},
    **{f"cache_{percent}": _cached(percent) for percent in CACHES},
    "index_96_cells": _index(96, resampled=False),
    "ance": _ance,
    "in_batch": _in_batch,
}


@dataclass(frozen=True)
class Outcome:
    """A method's means over its seeds.

    Args:
        quality: of ``METRIC``.
        spread: standard deviation over the seeds; 0 for one.
        share: of the memory of all items.
        encoded: items encoded a step.
    """

    quality: float
    spread: float
    share: float
    encoded: float


def measured(problem: Problem, method: str, seed: int) -> None:
    """One run; a finished one is not run again."""
    if any((r["method"], r["seed"]) == (method, str(seed)) for r in finished()):
        return
    store, sampler, rows = METHODS[method](problem, seed)
    unused = store or nc.DenseCache(2, 1)  # a run wants one; this sampler asks for none
    run = Run(problem, lambda store, task: (sampler, nc.log_q_corrected), RATE, seed, store=unused)
    *_, figures = run.train(steps=STEPS)
    row: dict[str, Any] = {"method": method, "seed": seed, "device_rows": round(rows, 1)}
    row |= {"device_share": round(rows / len(problem.items), 5)} | figures
    row |= {f"dev_{name}": value for name, value in run.test("dev", QUERIES).items()}
    row |= run.test("test", QUERIES) | hardware()
    append_rows(NAME, [row])
    print(*list(row.values())[:12], flush=True)


def finished() -> list[dict[str, str]]:
    """Runs of so many steps; the file has shorter ones of an earlier revision too."""
    return [row for row in read_rows(NAME) if row["step"] == str(STEPS)]


def outcomes() -> dict[str, Outcome]:
    """What has been measured so far."""
    rows: dict[str, list[dict[str, str]]] = {}
    for row in finished():
        rows.setdefault(row["method"], []).append(row)
    found = {}
    for method, own in rows.items():
        values = [float(r[METRIC]) for r in own]
        encoded = [float(r["encoded_grad"]) + float(r["encoded_nograd"]) for r in own]
        found[method] = Outcome(
            statistics.mean(values),
            statistics.stdev(values) if len(values) > 1 else 0.0,
            float(own[0]["device_share"]),
            statistics.mean(encoded) / STEPS,
        )
    return found


def answer(found: dict[str, Outcome]) -> dict[str, Any]:
    """The largest index within 3 % of the memory against the best mining within 3 %."""
    best, uniform = found["exhaustive"].quality, found["uniform"].quality
    within = {name: one for name, one in found.items() if one.share <= 0.03}
    mined = max((n for n in within if n.startswith("snm")), key=lambda n: within[n].quality)
    ours = max((n for n in within if n.startswith("index")), key=lambda n: within[n].quality)
    gap = best - found[mined].quality
    spread = statistics.mean([found["exhaustive"].spread, found[mined].spread])
    return {
        "exhaustive_over_uniform": round(best / uniform, 4),
        "gap_ratio_to_snm": round((best - found[ours].quality) / gap, 4),
        "snm_gap_in_sd": round(gap / spread, 2) if spread else None,
        "device_memory_share": round(found[ours].share, 4),
        "index": ours,
        "snm": mined,
        METRIC: {name: round(one.quality, 4) for name, one in found.items()},
        "share": {name: one.share for name, one in found.items()},
        "encoded_a_step": {name: round(one.encoded) for name, one in found.items()},
    }


def plot(found: dict[str, Outcome]) -> None:
    """Quality against memory, and against encodings."""
    families: dict[str, list[Outcome]] = {}
    for name, one in found.items():
        families.setdefault(name.rstrip("0123456789").rstrip("_"), []).append(one)
    memory = {
        name: [(max(100 * one.share, 0.1), one.quality) for one in own]
        for name, own in families.items()
    }
    encoded = {name: [(one.encoded, one.quality) for one in own] for name, own in families.items()}
    panels = {"% of all items' memory (0.1: none)": memory, "items encoded a step": encoded}
    curves(NAME, panels, "", METRIC, log_x=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem = static(fetched("go"), D, 2 * D)
    runs = [(seed, method) for seed in range(options.seeds) for method in options.methods]
    runs = [run for run in runs if run[0] == 0 or run[1] in SEEDED]
    for seed, method in sorted(runs, key=lambda run: run[1] not in SEEDED):
        measured(problem, method, seed)
    found = outcomes()
    if {"uniform", "exhaustive"} <= set(found):
        plot(found)
        conclude(NAME, answer(found))


if __name__ == "__main__":
    main()
