"""Is the automatic choice as good as the best of the choices it stands for?

    python -m benchmarks.automatic [--tasks go debian] [--batches 128 1024]

Static towers, Adam at 3e-3, one thread, equal CPU seconds. ``auto`` counts popularity as batches
come. Against it: in-batch (log-q corrected), so many uniform draws, and both together, with the
popularity of the training split; 512 and 2,048 uniform draws at batch 128, 1,024 and 4,096 at
batch 1,024. ``auto_over_best``: MRR@10 over all items, 2,000 held-out queries, by the best of the
others on dev. Resumable per (task, batch, method, seed, seconds).
"""

import argparse
from functools import cache
from typing import Any

import torch

import negcache as nc
from benchmarks.record import append_rows, conclude, hardware, read_rows
from benchmarks.retrieval import Build, Run, fetched, log_popularity, static

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


def measured(task: str, batch: int, method: str, seed: int, seconds: float) -> dict[str, Any]:
    """One run; a finished one is read back."""
    key = {"task": task, "batch": batch, "method": method, "seed": seed, "seconds": seconds}
    for row in read_rows(NAME):
        if all(row[name] == str(value) for name, value in key.items()):
            return row
    warm_up()
    run = Run(static(fetched(task)), methods(batch)[method], RATE, seed, batch=batch)
    *_, figures = run.train(seconds=seconds)
    sampler = run.loss.sampler
    chosen = list(sampler.choice) if isinstance(sampler, nc.samplers.Auto) else ""
    row = key | {"chosen": chosen, "steps": figures["step"]}
    row |= {name: figures[name] for name in ("encoded_grad", "encoded_nograd")}
    row |= {f"dev_{name}": value for name, value in run.test("dev", QUERIES).items()}
    row |= run.test("test", QUERIES) | hardware()
    append_rows(NAME, [row])
    print({name: row[name] for name in (*key, "chosen", "steps", "dev_mrr10", "mrr10")}, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["go", "debian"])
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 1024])
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    answer = {}
    for task in options.tasks:
        for batch in options.batches:
            rows = {m: measured(task, batch, m, 0, options.seconds) for m in methods(batch)}
            others = [method for method in rows if method != "auto"]
            best = max(others, key=lambda method: float(rows[method]["dev_mrr10"]))
            ratio = float(rows["auto"]["mrr10"]) / float(rows[best]["mrr10"])
            answer[f"{task}_{batch}"] = {"best": best, "auto_over_best": round(ratio, 4)}
    conclude(NAME, {"seconds": options.seconds, **answer})


if __name__ == "__main__":
    main()
