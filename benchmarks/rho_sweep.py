"""How small a share of the cache must be looked at again each step?

    python -m benchmarks.rho_sweep [--tasks go debian]

The central claim of the negative cache. Static towers, batch 128, 128 shared draws, Adam at 3e-3.
``frozen``: the cache is filled once and never written; ``sampled only``: the rows encoded in a step
are written back, nothing else; then rho = 0.0005 ... 1 of the corpus beside that. For each: MRR@10
of 2,000 held-out queries over all items, mean staleness of the rows drawn, oldest and mean distance
of all cached rows from fresh ones, and the bias of the gradient against the exact softmax (64
training queries, with respect to the query embeddings, relative to its norm; corrected and pinned).
GO has 1,000 steps and two seeds, debian 300 and one. Resumable per (task, rho, seed).
"""

import argparse
import statistics
from typing import Any

import torch

import negcache as nc
from benchmarks.gradients import errors
from benchmarks.record import append_rows, conclude, curves, hardware, read_rows
from benchmarks.retrieval import Run, fetched, static
from benchmarks.rows import embeddings
from negcache.messages import Request
from negcache.run.evaluation import encode_all

NAME, RATE, QUERIES = "rho_sweep", 3e-3, 2000
RHOS = ("frozen", "sampled only", "0.0005", "0.002", "0.01", "0.05", "1")
SEEDS = {"go": (0, 1), "debian": (0,)}
STEPS = {"go": 1000, "debian": 300}


class Frozen(nc.DenseCache):
    """Takes each row once, when it is filled; a store that nothing keeps."""

    def write(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        new = ~self.valid[ids]
        super().write(ids[new], rows[new])


def gradient_bias(run: Run) -> dict[str, float]:
    """The next step's draw against the exact gradient, on fresh float64 embeddings."""
    pairs, problem = run.pairs, run.problem
    pick = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(5))[:64]
    rows, positives = pairs.queries[pick], pairs.items[pick]
    score = nc.DotScore(0.05).double().requires_grad_(False)
    items = encode_all(run.tower, problem.items, run.score).double()
    queries = encode_all(run.tower, problem.queries, run.score, ids=rows).double()
    exclude = problem.task.known_positives("train").exclusion(rows, positives)
    request = Request(queries, score, positives, exclude)
    store = nc.DenseCache(len(items), items.shape[1], dtype=torch.float64)
    store.write(
        torch.arange(len(items)), score.embed(run.store.rows(torch.arange(len(items))).double())
    )
    shared = errors(
        nc.SharedDraws(nc.CachedSoftmax(store, 2)), nc.log_q_corrected, request, items, 40
    )
    pinned = errors(nc.CachedSoftmax(store, 8), nc.cached_partition, request, items, 40)
    distance = (embeddings(store) - items).norm(dim=1)
    return {
        "mean_distance": round(float(distance.mean()), 5),
        "largest_distance": round(float(distance.max()), 4),
        "corrected_bias": round(shared["query_bias"], 4),
        "pinned_bias": round(pinned["query_bias"], 4),
        "corrected_item_bias": round(shared["item_bias"], 4),
        "pinned_item_bias": round(pinned["item_bias"], 4),
    }


def measure(task: str, rho: str, seed: int, steps: int) -> None:
    """One run; a finished one is not run again."""
    key = (task, rho, str(seed), str(steps))
    if any((r["task"], r["rho"], r["seed"], r["step"]) == key for r in read_rows(NAME)):
        return
    problem = static(fetched(task))
    kind = Frozen if rho == "frozen" else nc.DenseCache
    fraction = float(rho) if rho[0].isdigit() else 0.0
    store = kind(len(problem.items), problem.dim, refresh=fraction)
    run = Run(
        problem,
        lambda store, task: (nc.SharedDraws(nc.CachedSoftmax(store, 1)), nc.log_q_corrected),
        RATE, seed, store=store,
    )  # fmt: skip
    *_, figures = run.train(steps=steps)
    row = {"task": task, "rho": rho, "seed": seed} | figures | run.test("test", QUERIES)
    row |= run.train_ce() | gradient_bias(run) | hardware()
    append_rows(NAME, [row])
    print(*list(row.items())[:16], flush=True)


def verdict() -> dict[str, Any]:
    """MRR@10 of every rho relative to a cache that is wholly fresh each step, over whole seeds."""
    answer: dict[str, Any] = {}
    for task, seeds in SEEDS.items():
        found = {
            seed: {
                r["rho"]: float(r["mrr10"])
                for r in read_rows(NAME)
                if (r["task"], r["seed"]) == (task, str(seed))
            }
            for seed in seeds
        }
        whole = [means for means in found.values() if set(means) == set(RHOS)]
        if whole:
            fresh = statistics.mean(means["1"] for means in whole)
            answer[task] = {
                rho: round(statistics.mean(means[rho] for means in whole) / fresh, 4)
                for rho in RHOS
            } | {"seeds": len(whole)}
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(SEEDS), choices=list(SEEDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in options.tasks:
        for seed in SEEDS[task]:
            for rho in RHOS:
                measure(task, rho, seed, STEPS[task])
    panels = {
        f"{task}: {column}": {
            f"seed {seed}": [
                (float(RHOS.index(r["rho"])), float(r[column]))
                for r in read_rows(NAME)
                if (r["task"], r["seed"]) == (task, str(seed))
            ]
            for seed in SEEDS[task]
            if any((r["task"], r["seed"]) == (task, str(seed)) for r in read_rows(NAME))
        }
        for task in options.tasks
        for column in ("mrr10", "corrected_bias")
    }
    curves(NAME, panels, "; ".join(f"{i}: {rho}" for i, rho in enumerate(RHOS)), "", log_x=False)
    if set(options.tasks) == set(SEEDS):
        conclude(NAME, verdict())


if __name__ == "__main__":
    main()
