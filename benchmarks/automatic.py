"""Is the automatic choice as good as the best of the choices it stands for?

    python -m benchmarks.automatic [--tasks go debian cities wordnet-sense] [--batches 128 1024]

Static towers, Adam at 3e-3, one thread, equal CPU seconds. ``auto`` counts popularity as batches
come. Against it: in-batch (log-q corrected), so many uniform draws, and both together, with the
popularity of the training split; 512 and 2,048 uniform draws at batch 128, 1,024 and 4,096 at
batch 1,024. The methods of a task take turns of some steps in one process, so that a busy machine
is busy for all of them. ``auto_over_best``: MRR@10 over all items, 2,000 held-out queries, by the
best of the others on dev. Resumable per (task, batch, seed, seconds).
"""

import argparse
from functools import cache
from typing import Any

import torch

import negcache as nc
from benchmarks.record import append_rows, conclude, hardware, read_rows
from benchmarks.retrieval import Build, Run, fetched, in_turns, log_popularity, static

NAME, RATE, QUERIES = "automatic", 3e-3, 2000
COUNTS = {128: (512, 2048), 1024: (1024, 4096)}


def methods(batch: int) -> dict[str, Build]:
    """By name, for batches of so many queries."""
    found: dict[str, Build] = {
        "auto": lambda store, task: (nc.samplers.Auto(task.corpus), nc.log_q_corrected),
        "in_batch": lambda store, task: (nc.InBatch(log_popularity(task)), nc.log_q_corrected),
    }
    for count in COUNTS[batch]:
        found[f"uniform_{count}"] = _uniform(count // batch, together=False)
        found[f"both_{count}"] = _uniform(count // batch, together=True)
    return found


def _uniform(each: int, together: bool) -> Build:
    def build(store, task):
        shares = log_popularity(task) if together else None
        sampler = nc.SharedDraws(nc.Uniform(task.corpus, each), log_popularity=shares)
        return sampler, nc.log_q_corrected

    return build


@cache
def warm_up() -> None:
    """The first steps of a process take half as long again: the allocator learns sizes."""
    run = Run(static(fetched("go")), methods(128)["both_512"], RATE, seed=0)
    list(run.train(seconds=10))


def measured(task: str, batch: int, seed: int, seconds: float) -> dict[str, dict[str, Any]]:
    """The methods of a task, a turn each; what is finished is read back."""
    key = {"task": task, "batch": batch, "seed": seed, "seconds": seconds}
    done = [r for r in read_rows(NAME) if all(r[name] == f"{each}" for name, each in key.items())]
    if done:
        return {row["method"]: row for row in done}
    warm_up()
    problem = static(fetched(task))
    runs = {
        name: Run(problem, build, RATE, seed, batch=batch) for name, build in methods(batch).items()
    }
    for _ in in_turns(runs, seconds):
        pass
    rows = {}
    for name, run in runs.items():
        place = {"task": task, "batch": batch, "method": name, "seed": seed, "seconds": seconds}
        rows[name] = place | _measured(run)
    append_rows(NAME, rows.values())
    return rows


def _measured(run: Run) -> dict[str, Any]:
    sampler, figures = run.loss.sampler, run.figures()
    chosen = list(sampler.choice) if isinstance(sampler, nc.samplers.Auto) else ""
    row: dict[str, Any] = {"chosen": chosen, "steps": figures["step"]}
    row |= {name: figures[name] for name in ("encoded_grad", "encoded_nograd")}
    row |= {f"dev_{name}": value for name, value in run.test("dev", QUERIES).items()}
    row |= run.test("test", QUERIES)
    print(row, flush=True)
    return row | hardware()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["go", "debian", "cities", "wordnet-sense"])
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 1024])
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    answer = {}
    for task in options.tasks:
        for batch in options.batches:
            rows = measured(task, batch, 0, options.seconds)
            others = [method for method in rows if method != "auto"]
            best = max(others, key=lambda method: float(rows[method]["dev_mrr10"]))
            ratio = float(rows["auto"]["mrr10"]) / float(rows[best]["mrr10"])
            answer[f"{task}_{batch}"] = {"best": best, "auto_over_best": round(ratio, 4)}
    conclude(NAME, {"seconds": options.seconds, **answer})


if __name__ == "__main__":
    main()
