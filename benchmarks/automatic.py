"""Is the automatic choice as good as the best of the choices it stands for?

    python -m benchmarks.automatic [--tasks go debian cities wordnet-sense] [--batches 128 1024]
                                   [--rates 1e-3 3e-3 1e-2] [--seconds 10 30]

Static towers, Adam, one thread, equal CPU seconds. ``auto`` counts popularity as batches come.
Against it: in-batch (log-q corrected), so many uniform draws, and both together, with the
popularity of the training split; 512 and 2,048 uniform draws at batch 128, 1,024 and 4,096 at
batch 1,024. The methods of a task and rate take turns of some steps in one process, so that a busy
machine is busy for all of them; a run is looked at at each of the times. ``auto_over_best``:
MRR@10 over all items, 2,000 held-out queries, of ``auto`` at its rate that is best on dev, by that
of the best on dev of all others at all rates. Resumable per (task, batch, rate, seed, last time).
"""

import argparse
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import torch

import negcache as nc
from benchmarks.record import append_rows, conclude, hardware, read_rows
from benchmarks.retrieval import Build, Run, fetched, in_turns, log_popularity, static

NAME, QUERIES = "automatic", 2000
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
    run = Run(static(fetched("go")), methods(128)["both_512"], 3e-3, seed=0)
    list(run.train(seconds=10))


class Place(NamedTuple):
    """Where methods are compared.

    Args:
        task: by name.
        batch: queries of a step.
        seed: of towers, batches and draws.
        of: CPU seconds of a run.
    """

    task: str
    batch: int
    seed: int
    of: float


def raced(place: Place, rate: float, times: list[float]) -> None:
    """All methods at a rate, a turn each; what is finished is not done again."""
    if any(float(row["rate"]) == rate for row in rows_of(place)):
        return
    warm_up()
    problem = static(fetched(place.task))
    runs = {
        name: Run(problem, build, rate, place.seed, batch=place.batch)
        for name, build in methods(place.batch).items()
    }
    left = {name: sorted(times) for name in runs}
    rows = []
    for name, run in in_turns(runs, place.of):
        if left[name] and run.seconds >= left[name][0]:
            setting = {"rate": rate, "method": name, "seconds": left[name].pop(0)}
            rows.append(place._asdict() | setting | _measured(run))
    append_rows(NAME, rows)


def rows_of(place: Place) -> list[dict[str, str]]:
    """The results so far."""
    key = {name: f"{value}" for name, value in place._asdict().items()}
    return [r for r in read_rows(NAME) if all(r[name] == each for name, each in key.items())]


def _measured(run: Run) -> dict[str, Any]:
    sampler, figures = run.loss.sampler, run.figures()
    chosen = list(sampler.choice) if isinstance(sampler, nc.samplers.Auto) else ""
    row: dict[str, Any] = {"chosen": chosen, "steps": figures["step"]}
    row |= {name: figures[name] for name in ("encoded_grad", "encoded_nograd")}
    row |= {f"dev_{name}": value for name, value in run.test("dev", QUERIES).items()}
    row |= run.test("test", QUERIES)
    print(row, flush=True)
    return row | hardware()


def verdict(rows: list[dict[str, str]]) -> dict[str, Any]:
    """Of one place and time: the best of each side on dev, at any rate."""
    own = max((r for r in rows if r["method"] == "auto"), key=_dev)
    best = max((r for r in rows if r["method"] != "auto"), key=_dev)
    return {
        "best": best["method"],
        "rates": [float(own["rate"]), float(best["rate"])],
        "auto_over_best": round(float(own["mrr10"]) / float(best["mrr10"]), 4),
    }


def _dev(row: dict[str, str]) -> float:
    return float(row["dev_mrr10"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["go", "debian", "cities", "wordnet-sense"])
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 1024])
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--seconds", nargs="+", type=float, default=[10.0, 30.0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task, batch in product(options.tasks, options.batches):
        for rate in options.rates:
            raced(Place(task, batch, 0, max(options.seconds)), rate, options.seconds)
    conclude(NAME, dict(_verdicts()))


def _verdicts() -> Iterator[tuple[str, dict[str, Any]]]:
    """Of every place and time in the results."""
    places: dict[str, list[dict[str, str]]] = {}
    for row in read_rows(NAME):
        word = f"{row['task']}_{row['batch']}_{float(row['seconds']):g}"
        places.setdefault(word, []).append(row)
    for word, rows in places.items():
        yield word, verdict(rows)


if __name__ == "__main__":
    main()
