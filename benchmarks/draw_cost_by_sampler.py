"""What does a whole draw cost beside the product that it cannot avoid, by sampler?

    python -m benchmarks.draw_cost_by_sampler [--items 100000 1000000] [--repeats 9]

Clustered unit vectors, D = 64, scale 20, one draw a query shared by the batch, B = 128 and 1,024;
each query excludes its target. A whole draw is ``draws.draw``: law, noise, index lookups,
exclusions and weights. CPU seconds of one thread: the draw, then the product, of this checkout and
of the commit before in turn, each in a process of its own; medians, after two rounds of warm-up.

``exact``: ``CachedSoftmax`` over ``DenseCache``; the product of the queries with all items.
``index``: ``DynamicIndex``; with its centres. ``pool_uniform``, ``pool_index``: ``Resampled`` over
8 draws a query of ``Uniform``, of ``DynamicIndex``; with the rows of the pool. ``uniform``: the
draw and the loss over what is drawn, forward and backward, over that loss alone.

``over_product`` of the last line: the largest ratio of each, over N and B; and of the commit
before.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.record import append_rows, conclude, hardware
from benchmarks.second_edition import WARM_UP, Worker, workers

NAME, BEFORE, D, TEMPERATURE = "draw_cost_by_sampler", "58b0207", 64, 0.05
SAMPLERS, BATCHES = ("exact", "index", "pool_uniform", "pool_index", "uniform"), (128, 1024)

Run = Callable[[], Any]


def vectors(count: int, num_centres: int, seed: int) -> torch.Tensor:
    """Unit vectors about as many centres as an index would make."""
    centres = torch.randn(num_centres, D, generator=torch.Generator().manual_seed(0))
    noise = torch.Generator().manual_seed(seed)
    chosen = torch.randint(num_centres, (count,), generator=noise)
    return F.normalize(centres[chosen] + 0.7 * torch.randn(count, D, generator=noise), dim=1)


class Scene:
    """A filled store, an index over it, and what is asked of them: by either edition."""

    def __init__(self, num_items: int) -> None:
        names = ("", ".draws", ".exclusion", ".messages", ".indexes.clusters", ".step")
        self.nc, self.draws, self.exclusion, self.messages, clusters, self.step = (
            import_module(f"negcache{name}") for name in names
        )
        self.num_items, self.num_centres = num_items, round(num_items**0.5)
        self.store = self.nc.DenseCache(num_items, D)
        for part, ids in enumerate(torch.arange(num_items).split(1 << 16)):
            self.store.write(ids, vectors(len(ids), self.num_centres, part + 1))
        sample = 8 * round(4 * num_items**0.5)
        index = clusters.KMeansClusters(sample=sample, iterations=3)
        self.index = self.nc.DynamicIndex(self.store, 1, index=index)
        self.of_eight = self.nc.DynamicIndex(self.store, 8, index=index)

    def request(self, batch: int) -> Any:
        queries = vectors(batch, self.num_centres, 0)
        noise = torch.Generator().manual_seed(1)
        targets = torch.randint(self.num_items, (batch,), generator=noise)
        exclude = self.exclusion.Exclusion.from_pairs(torch.arange(batch), targets, batch)
        score = self.nc.DotScore(TEMPERATURE).requires_grad_(False)
        return self.messages.Request(queries, score, targets, exclude)

    def sampler(self, name: str) -> Any:
        nc, store = self.nc, self.store
        match name:
            case "exact":
                return nc.SharedDraws(nc.CachedSoftmax(store, 1))
            case "index":
                return nc.SharedDraws(self.index)
            case "pool_uniform":
                return nc.Resampled(nc.Uniform(range(self.num_items), 8), store=store)
            case "pool_index":
                return nc.Resampled(self.of_eight)
        return nc.SharedDraws(nc.Uniform(range(self.num_items), 1))

    def runs(self, name: str, batch: int) -> tuple[Run, Run]:
        """The whole draw, and what it is measured by."""
        request, sampler = self.request(batch), self.sampler(name)
        random = torch.Generator().manual_seed(2)
        draw = partial(self.draws.draw, sampler, request, random)
        if name == "uniform":
            found = draw()
            return lambda: (draw(), self._loss(request, found)), partial(self._loss, request, found)
        draw()  # clusters are built
        if name == "exact":
            right = self.store.rows(torch.arange(self.num_items))
        elif name == "index":
            right = self.index.clusters.index.table.centres
        else:
            pool = self.draws.draw(sampler.pool, request, random)
            right = self.store.rows(pool.ids)
        left, out = request.queries / TEMPERATURE, torch.empty(batch, len(right))
        return draw, partial(torch.mm, left, right.T, out=out)

    def _loss(self, request: Any, found: Any) -> None:
        """Over what was drawn, whose rows are at hand."""
        queries = request.queries.clone().requires_grad_()
        rows = self.store.rows(found.ids).requires_grad_()
        targets = self.store.rows(request.positives)[:, None]
        items = self.step.Encoded(found.ids, rows, targets, [rows])
        draws = [(found, self.nc.log_q_corrected)]
        found = self.step.sampled_loss(queries, request.positives, items, draws, request.score)
        found.losses.mean().backward()


def serve(source: str) -> None:
    """Child process: for each case that is asked for, seconds of the draw and of the product."""
    torch.set_num_threads(1)
    if not Path(import_module("negcache").__file__ or "").is_relative_to(Path(source).resolve()):
        raise RuntimeError(f"negcache of another place than {source}")
    scene, ready, runs = None, "", None
    for case in map(str.strip, sys.stdin):
        if case != ready:
            name, batch, num_items = case.split()
            if scene is None or scene.num_items != int(num_items):
                scene, runs = None, None  # before the next takes its memory
                scene = Scene(int(num_items))
            ready, runs = case, scene.runs(name, int(batch))
        print(*(cpu_seconds(run) for run in runs or ()), flush=True)


def cpu_seconds(run: Run) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(pair: dict[str, Worker], case: str, repeats: int) -> dict[str, Any]:
    """Medians of both editions, called in turn, and their ratios to the product."""
    taken: dict[str, list[list[float]]] = {name: [] for name in pair}
    for turn in range(WARM_UP + repeats):
        for name, worker in pair.items():
            seconds = [float(each) for each in worker.ask(case).split()]
            if turn >= WARM_UP:
                taken[name].append(seconds)
    name, batch, num_items = case.split()
    row: dict[str, Any] = {"sampler": name, "batch": int(batch), "items": int(num_items)}
    for edition, calls in taken.items():
        draw, product = (statistics.median(column) for column in zip(*calls, strict=True))
        row |= {f"{edition}_ms": f"{1000 * draw:.4g}", f"{edition}_by_ms": f"{1000 * product:.4g}"}
        row[f"{edition}_over"] = round(draw / product, 3)
    return row


def answer(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The largest ratio of each sampler, now and before."""

    def largest(column: str) -> dict[str, float]:
        names = dict.fromkeys(row["sampler"] for row in rows)
        return {n: max(row[column] for row in rows if row["sampler"] == n) for n in names}

    return {"over_product": largest("new_over"), "before": largest("old_over")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[10**5, 10**6])
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=SAMPLERS)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    rows = []
    with workers(BEFORE, "benchmarks.draw_cost_by_sampler") as pair:
        for num_items in options.items:
            for name in options.samplers:
                for batch in BATCHES:
                    row = measure(pair, f"{name} {batch} {num_items}", options.repeats)
                    rows.append(row | hardware() | {"threads": 1})
                    print(*list(row.values()), flush=True)
    append_rows(NAME, rows)
    conclude(NAME, answer(rows))


if __name__ == "__main__":
    if sys.argv[1:2] in (["old"], ["new"]):
        serve(sys.argv[2])
    else:
        main()
