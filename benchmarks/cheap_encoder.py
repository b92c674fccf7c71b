"""Where encoding is cheap, is a cache still worth its draw, against many uniform negatives?

    python -m benchmarks.cheap_encoder [--tasks go debian] [--share 3.0]

Static towers (token vectors averaged), batch 128, Adam at 3e-3 (the best of three for every method
on GO, see first_comparison_tuning.csv), equal CPU seconds on one thread, refresh and draw included.
Uniform with 256 to 4,096 shared negatives against ours; each side's best is chosen on dev with
seed 0 and repeated with one more seed. Runs of ``--share 1`` try everything, longer ones the best
numbers of those and their neighbours. MRR@10 over all items, 2,000 held-out queries. The profile of
a step (wall seconds by stage) says what a cached step is spent on. Resumable per (task, method,
seed).
"""

import argparse
import statistics
from typing import Any

import torch

import negcache as nc
from benchmarks.record import append_rows, bars, conclude, hardware, read_rows
from benchmarks.retrieval import BATCH, Build, Run, fetched, log_popularity, static

NAME = "cheap_encoder"
SECONDS = {"go": 30, "debian": 30, "cities": 15, "wordnet-sense": 15}
SEEDS, RATE, QUERIES = (0, 1), 3e-3, 2000


def _uniform(count: int) -> Build:
    each = count // BATCH
    return lambda store, task: (nc.SharedDraws(nc.Uniform(task.corpus, each)), nc.log_q_corrected)


def _shared(count: int, scored: float = 1.0) -> Build:
    each = count // BATCH
    return lambda store, task: (
        nc.SharedDraws(nc.CachedSoftmax(store, each, scored=scored)),
        nc.log_q_corrected,
    )


def _some_rows(count: int, uniform: int = 0, rows: int = 8192) -> Build:
    """So many cached draws out of a few thousand rows, with the batch's positives and uniform."""

    def build(store, task):
        share = min(1.0, rows / store.num_items)
        sampler = nc.CachedSoftmax(store, count // BATCH, scored=share)
        if uniform:
            sampler = nc.Mixture(sampler, nc.Uniform(store, uniform // BATCH))
        return nc.SharedDraws(sampler, log_popularity=log_popularity(task)), nc.log_q_corrected

    return build


def _mixture(cached: int, uniform: int, scored: float = 1.0) -> Build:
    def build(store, task):
        parts = (
            nc.CachedSoftmax(store, cached // BATCH, scored=scored),
            nc.Uniform(store, uniform // BATCH),
        )
        return nc.SharedDraws(nc.Mixture(*parts)), nc.log_q_corrected

    return build


UNIFORM: dict[str, Build] = {f"uniform_{n}": _uniform(n) for n in (256, 512, 1024, 2048, 4096)}
OURS: dict[str, Build] = {
    "shared_128": _shared(128),
    "shared_512": _shared(512),
    "shared_128_in_batch": lambda store, task: (
        nc.SharedDraws(nc.CachedSoftmax(store, 1), log_popularity=log_popularity(task)),
        nc.log_q_corrected,
    ),
    "rest_256": lambda store, task: (nc.CachedRest(store, 256), nc.log_q_corrected),
    "scored_quarter_256": _shared(256, 0.25),
    "cached_256_uniform_512": _mixture(256, 512),
    "some_rows_256_in_batch": _some_rows(256),
    "some_rows_256_uniform_256_in_batch": _some_rows(256, 256),
    "few_rows_128_uniform_256_in_batch": _some_rows(128, 256, rows=2048),
}
METHODS = UNIFORM | OURS
BEST_UNIFORM = {
    "go": (512, 1024, 2048),
    "debian": (512, 1024, 2048),
    "cities": (256, 512, 1024),
    "wordnet-sense": (1024, 2048, 4096),
}
LEFT_OUT = ("rest_256", "shared_512", "cached_256_uniform_512")  # behind in every short run


def measured(task_name: str, method: str, seed: int, share: float) -> dict[str, Any]:
    """One run; a finished one is read back."""
    for row in read_rows(NAME):
        same = (row["task"], row["method"], int(row["seed"]), float(row["share"]))
        if same == (task_name, method, seed, share):
            return row
    problem = static(fetched(task_name))
    run = Run(problem, METHODS[method], RATE, seed)
    *_, figures = run.train(seconds=share * SECONDS[task_name])
    total = sum(run.stages.values())
    row: dict[str, Any] = {"task": task_name, "method": method, "seed": seed, "share": share}
    row |= figures | {f"dev_{k}": v for k, v in run.test("dev", QUERIES).items()}
    row |= run.test("test", QUERIES)
    row |= {
        f"{stage}_share": round(run.stages.get(stage, 0.0) / total, 3)
        for stage in ("draw", "encode", "loss", "write", "refresh")
    }
    row |= hardware()
    append_rows(NAME, [row])
    print({name: row[name] for name in ("task", "method", "seed", "step", "dev_mrr10", "mrr10")})
    return row


def best(task: str, methods: list[str], share: float) -> str:
    """The method with the best dev MRR@10, seed 0."""
    tried = {m: float(measured(task, m, 0, share)["dev_mrr10"]) for m in methods}
    return max(tried, key=lambda method: tried[method])


def sides(task: str, share: float) -> dict[str, list[str]]:
    """What each side may choose from."""
    if share == 1:
        return {"uniform": list(UNIFORM), "ours": list(OURS)}
    return {
        "uniform": [f"uniform_{count}" for count in BEST_UNIFORM[task]],
        "ours": [m for m in OURS if m not in LEFT_OUT],
    }


def verdict(task: str) -> dict[str, Any]:
    """Each side's best of the longest runs of a task that are finished, means over the seeds."""
    rows = [r for r in read_rows(NAME) if r["task"] == task]
    for share in sorted({float(r["share"]) for r in rows}, reverse=True):
        means: dict[str, float] = {}
        answer: dict[str, Any] = {f"{task}_seconds": share * SECONDS[task]}
        for side, methods in sides(task, share).items():
            runs = [r for r in rows if float(r["share"]) == share and r["method"] in methods]
            first = [r for r in runs if r["seed"] == "0"]
            chosen = max(first, key=lambda r: float(r["dev_mrr10"]))["method"] if first else ""
            picked = [float(r["mrr10"]) for r in runs if r["method"] == chosen]
            if len(picked) == len(SEEDS):
                answer[f"{task}_best_{side}"] = chosen
                means[side] = statistics.mean(picked)
        if len(means) == 2:
            ratio = round(means["ours"] / means["uniform"], 4)
            return answer | {f"{task}_best_ours_over_best_uniform": ratio}
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", default=list(SECONDS), choices=list(SECONDS))
    parser.add_argument("--share", type=float, default=3.0, help="of the seconds of each task")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in options.tasks:
        for methods in sides(task, options.share).values():
            chosen = best(task, methods, options.share)
            for seed in SEEDS:
                measured(task, chosen, seed, options.share)
    rows = [r for r in read_rows(NAME) if r["seed"] == "0" and float(r["share"]) == options.share]
    bars(NAME, rows, group="task", label="method", value="mrr10")
    conclude(NAME, {k: v for task in SECONDS for k, v in verdict(task).items()})


if __name__ == "__main__":
    main()
