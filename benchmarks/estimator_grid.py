"""Which estimator, with how many draws, at which staleness? Gradients against the exact softmax.

    python -m benchmarks.estimator_grid

20,000 items and 8 queries of Gene Ontology as a static tower embeds them after 1,000 training
steps; scales 5, 11, 20; a cache off by 0, 10 and 30 % (noise, relative to an embedding's norm); 8
to 1,024 draws. Float64, bias and standard deviation of the gradient with respect to the query and
to the item embeddings, relative to the exact gradient's norm. ``draws`` are per query; for shared,
rest and mixed draws they are what the batch of 8 encodes in all. Resumable per cell.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch

import negcache as nc
from benchmarks.gradients import errors
from benchmarks.record import append_rows, conclude, curves, hardware, read_rows
from benchmarks.retrieval import Run, fetched, static
from negcache.exclusion import Exclusion
from negcache.interfaces import Estimator, Sampler
from negcache.messages import Request
from negcache.run.evaluation import encode_all
from negcache.samplers import CachedDistinct, HeadTail

NAME, NUM_ITEMS, QUERIES = "estimator_grid", 20_000, 8
DRAWS, STALENESS, SCALES = (8, 128, 1024), (0.0, 0.1, 0.3), (5, 11, 20)
REPEATS = 12

Build = Callable[[nc.DenseCache, int], tuple[Sampler, Estimator]]


def _shared(sampler: Callable[[nc.DenseCache, int], Sampler]) -> Build:
    return lambda store, m: (nc.SharedDraws(sampler(store, m // QUERIES)), nc.log_q_corrected)


def _mixed(store: nc.DenseCache, m: int) -> tuple[Sampler, Estimator]:
    each = max(m // QUERIES // 2, 1)
    parts = nc.CachedSoftmax(store, each), nc.Uniform(store, each)
    return nc.SharedDraws(nc.Mixture(*parts)), nc.log_q_corrected


METHODS: dict[str, Build] = {
    "uniform": lambda store, m: (nc.Uniform(store, m), nc.log_q_corrected),
    "cached_corrected": lambda store, m: (nc.CachedSoftmax(store, m), nc.log_q_corrected),
    "cached_pinned": lambda store, m: (nc.CachedSoftmax(store, m), nc.cached_partition),
    "flat_half": lambda store, m: (nc.CachedSoftmax(store, m, power=0.5), nc.log_q_corrected),
    "scored_quarter": lambda store, m: (
        nc.CachedSoftmax(store, m, scored=0.25),
        nc.log_q_corrected,
    ),
    "head_tail_corrected": lambda store, m: (
        HeadTail(store, m // 2, m // 2),
        nc.log_q_corrected,
    ),
    "head_tail_pinned": lambda store, m: (
        HeadTail(store, m // 2, m // 2),
        nc.cached_partition,
    ),
    "hard_top": lambda store, m: (HeadTail(store, m, 0), nc.log_q_corrected),
    "distinct_corrected": lambda store, m: (
        CachedDistinct(store, m),
        nc.log_q_corrected,
    ),
    "distinct_pinned": lambda store, m: (CachedDistinct(store, m), nc.cached_partition),
    "shared_uniform": _shared(nc.Uniform),
    "shared_cached": _shared(nc.CachedSoftmax),
    "shared_mixture": _mixed,
    "rest": lambda store, m: (nc.CachedRest(store, m), nc.log_q_corrected),
}


def embedded(num_queries: int = QUERIES) -> tuple[torch.Tensor, Request]:
    """Items and queries as a briefly trained tower sees them, float64; the request at scale 20."""
    problem = static(fetched("go"))
    run = Run(
        problem,
        lambda store, task: (nc.SharedDraws(nc.CachedSoftmax(store, 1)), nc.log_q_corrected),
        3e-3,
        seed=0,
    )
    *_, _last = run.train(steps=1000)
    items = encode_all(run.tower, problem.items, run.score)[:NUM_ITEMS].double()
    pairs = problem.task.learnable("dev")
    pairs = pairs.only(pairs.items < NUM_ITEMS)
    pick = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(1))[:num_queries]
    rows, positives = pairs.queries[pick], pairs.items[pick]
    queries = encode_all(run.tower, problem.queries, run.score, ids=rows).double()
    exclude = Exclusion.from_pairs(torch.arange(num_queries), positives, num_queries)
    return items, Request(queries, nc.DotScore(0.05).double(), positives, exclude)


def cells(items: torch.Tensor, request: Request) -> Iterator[dict[str, Any]]:
    """Measure what is not yet measured."""
    done = {(r["method"], r["draws"], r["staleness"], r["scale"]) for r in read_rows(NAME)}
    for scale in SCALES:
        score = nc.DotScore(1 / scale).double().requires_grad_(False)
        asked = dataclasses.replace(request, score=score)
        for stale in STALENESS:
            noise = torch.randn(items.shape, generator=torch.Generator().manual_seed(2))
            store = nc.DenseCache(NUM_ITEMS, items.shape[1], dtype=torch.float64)
            drifted = items + stale * noise.double() / items.shape[1] ** 0.5
            store.write(torch.arange(NUM_ITEMS), score.embed(drifted))
            for draws in DRAWS:
                for method, build in METHODS.items():
                    key = (method, str(draws), str(stale), str(scale))
                    if key in done or (method.startswith("distinct") and draws > 128):
                        continue
                    repeats = REPEATS if not method.startswith("distinct") else REPEATS // 2
                    found = errors(*build(store, draws), asked, items, repeats)
                    head = dict(zip(("method", "draws", "staleness", "scale"), key, strict=True))
                    yield head | {k: f"{v:.4g}" for k, v in found.items()} | {"repeats": repeats}


def verdict() -> dict[str, Any]:
    """Root mean squared error of the query gradient, the best method for each number of draws."""
    rows = read_rows(NAME)
    answer: dict[str, Any] = {}
    for stale in STALENESS:
        for draws in (8, 128, 1024):

            def error(method: str, stale=stale, draws=draws) -> float:
                picked = [
                    float(r["query_bias"]) ** 2 + float(r["query_sd"]) ** 2
                    for r in rows
                    if (r["method"], r["draws"], r["staleness"]) == (method, str(draws), str(stale))
                ]
                return statistics.mean(picked) ** 0.5 if picked else float("inf")

            best = sorted(METHODS, key=error)[:3]
            answer[f"stale_{stale}_draws_{draws}"] = {m: round(error(m), 3) for m in best}
    return answer


def main() -> None:
    torch.set_num_threads(1)
    items, request = embedded()
    for row in cells(items, request):
        append_rows(NAME, [row | hardware()])
        print(*list(row.values())[:6], flush=True)
    panels = {}
    for stale in STALENESS:
        picked = [r for r in read_rows(NAME) if (r["staleness"], r["scale"]) == (str(stale), "20")]
        panels[f"scale 20, cache off by {stale:.0%}"] = {
            method: [
                (
                    float(r["draws"]),
                    (float(r["query_bias"]) ** 2 + float(r["query_sd"]) ** 2) ** 0.5,
                )
                for r in picked
                if r["method"] == method
            ]
            for method in METHODS
        }
    curves(NAME, panels, "draws", "relative error of the query gradient", log_x=True)
    conclude(NAME, verdict())


if __name__ == "__main__":
    main()
