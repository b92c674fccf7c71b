"""What does an exact draw over int8 rows cost, how far is its law, and does training notice?

    python -m benchmarks.int8_draw [--steps 500] [--items 1000000]

CPU seconds of one thread for a draw of 8 negatives for each of 256 queries from 10^6 rows, D = 64:
float32 rows, bfloat16 rows and int8 rows in turn, medians after warm-up. ``bare_ms`` is
``torch._int_mm`` of all of it into one piece of memory that stays in the cache, and nothing else.

``tv``: total variation between the softmax of rounded numbers and that of float32 ones, mean over
32 queries at scales 5, 11 and 20, on random directions and on clustered points (rows of
``index_draw_cost``). log-q correction makes up for it exactly; it says how far draws are from those
wanted. ``mrr10``: Gene Ontology, first_comparison's tower, 128 shared draws of a batch of 128, Adam
at 3e-3, three seeds, float32 against int8 rows. Resumable per part.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

import negcache as nc
from benchmarks.draw_cost import problem
from benchmarks.index_draw_cost import clustered
from benchmarks.record import append_rows, conclude, hardware, read_rows
from benchmarks.retrieval import Run, fetched, static
from benchmarks.rows import embeddings
from negcache.draws import draw
from negcache.ops.quantized import quantize, rounded
from negcache.shapes import Float, Tensor
from negcache.stores.integer_masses import DOTS

NAME, LAW, TRAINING = "int8_draw", "int8_draw_law", "int8_draw_training"
SCALES, SEEDS, RATE = (5.0, 11.0, 20.0), (0, 1, 2), 3e-3
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def in_turn(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each run, taken in turn after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if turn:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def bare_products(queries: Float[Tensor, "B D"], items: Float[Tensor, "N D"]) -> None:
    """Integer products of all rows, as many at a time as the draw takes."""
    columns, step = quantize(queries).codes.T.contiguous(), DOTS // len(queries)
    memory = torch.empty(step, len(queries), dtype=torch.int32)
    for block in items.split(step):
        torch._int_mm(block, columns, out=memory[: len(block)])  # type: ignore[attr-defined]


def costs(num_items: int, repeats: int) -> None:
    made = {name: problem(num_items, dtype) for name, dtype in TYPES.items()}
    request = made["float32"][1]
    stored = made["int8"][0].store
    assert isinstance(stored, nc.DenseCache)
    random = torch.Generator().manual_seed(1)
    runs: dict[str, Callable[[], Any]] = {
        name: partial(draw, sampler, request, random) for name, (sampler, _) in made.items()
    }
    runs["bare"] = partial(bare_products, request.queries, embeddings(stored))
    seconds = in_turn(runs, repeats)
    figures = {f"{name}_ms": round(1000 * taken, 1) for name, taken in seconds.items()}
    speedup = round(seconds["float32"] / seconds["int8"], 3)
    append_rows(NAME, [{"items": num_items, **figures, "speedup": speedup, **hardware()}])
    print(num_items, figures, speedup, flush=True)


def law(rows: str, num_items: int) -> None:
    """Total variation at every scale."""
    if rows == "clustered":
        items, queries = clustered(num_items, num_items, 2), clustered(32, num_items, 1)
    else:
        random = torch.Generator().manual_seed(0)
        items, queries = (
            F.normalize(torch.randn(count, 64, generator=random), dim=1)
            for count in (num_items, 32)
        )
    exact, close = queries @ items.T, rounded(queries) @ rounded(items).T
    found = []
    for scale in SCALES:
        laws = [(scale * dots.double()).softmax(dim=1) for dots in (exact, close)]
        tv = 0.5 * (laws[0] - laws[1]).abs().sum(dim=1).mean()
        largest = (exact - close).abs().max()
        found.append({"rows": rows, "items": num_items, "scale": scale, "tv": f"{tv:.4g}",
                      "largest_cosine_error": f"{largest:.4g}", **hardware()})  # fmt: skip
        print(*list(found[-1].values())[:5], flush=True)
    append_rows(LAW, found)


def train(dtype: str, seed: int, steps: int) -> None:
    """One run on Gene Ontology."""
    task = static(fetched("go"))
    num_items = len(task.items)
    store = nc.DenseCache(num_items, task.dim, refresh=128 / num_items, dtype=TYPES[dtype])

    def build(store: Any, _task: Any) -> Any:
        return nc.SharedDraws(nc.CachedSoftmax(store, 1)), nc.log_q_corrected

    run = Run(task, build, RATE, seed, store=store)
    *_, last = run.train(steps=steps)
    row = {"rows": dtype, "seed": seed, "steps": steps, **last, **run.test("test")}
    append_rows(TRAINING, [row | hardware()])
    print(row, flush=True)


def answer(steps: int) -> dict[str, Any]:
    newest = read_rows(NAME)[-1]
    tv = {
        name: {row["scale"]: float(row["tv"]) for row in read_rows(LAW) if row["rows"] == name}
        for name in ("random", "clustered")
    }
    runs = [row for row in read_rows(TRAINING) if int(row["steps"]) == steps]
    mrr = {
        name: [float(row["mrr10"]) for row in runs if row["rows"] == name]
        for name in ("float32", "int8")
    }
    mean = {name: statistics.mean(values) for name, values in mrr.items()}
    spread = statistics.stdev(mrr["float32"])
    return {
        "speedup_over_fp32": float(newest["speedup"]),
        "times_bare_products": round(float(newest["int8_ms"]) / float(newest["bare_ms"]), 2),
        "tv": tv,
        "mrr10": {name: round(value, 4) for name, value in mean.items()},
        "mrr10_difference": round(mean["int8"] - mean["float32"], 4),
        "mrr10_seed_deviation": round(spread, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    costs(options.items, options.repeats)
    for rows in ("random", "clustered"):
        if rows not in {row["rows"] for row in read_rows(LAW)}:
            law(rows, 1_000_000)
    done = {(r["rows"], int(r["seed"]), int(r["steps"])) for r in read_rows(TRAINING)}
    for seed in SEEDS:
        for dtype in ("float32", "int8"):
            if (dtype, seed, options.steps) not in done:
                train(dtype, seed, options.steps)
    conclude(NAME, answer(options.steps))


if __name__ == "__main__":
    main()
