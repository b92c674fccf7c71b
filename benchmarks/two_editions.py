"""The same work by the first and by the second edition of the library, one call at a time.

``python -m benchmarks.two_editions EDITION SOURCE`` reads names of ``CASES`` from standard input,
runs each once with the library in SOURCE, and prints its CPU seconds. What a case needs is made
ready, untimed, when its name differs from the one before. One torch thread.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

D, ROWS, TEMPERATURE = 64, 100_000, 0.05
WIDTH, BATCH, RATE, REFRESHED = 256, 128, 2e-3, 128  # as `negcache demo` trains

Run = Callable[[], Any]


@dataclass(frozen=True)
class Edition:
    """What the editions call by different names.

    Args:
        nc: the package.
        refresh: keyword of a cache: the share of its rows that a step looks at again.
        draw: (sampler, request, generator) -> draw.
        unbiased: the estimator by honest weights.
    """

    nc: Any
    refresh: str
    draw: Callable[[Any, Any, torch.Generator], Any]
    unbiased: Any
    exclusion: Any
    request: Any
    tower: Any
    open_task: Callable[..., Any]


def first() -> Edition:
    """Version 0.1: samplers draw, caches have a rho, the face has every name."""
    nc, data = import_module("negcache"), import_module("negcache.data")
    return Edition(
        nc=nc,
        refresh="rho",
        draw=lambda sampler, request, generator: sampler.draw(request, generator),
        unbiased=nc.corrected,
        exclusion=nc.Exclusion,
        request=nc.Request,
        tower=nc.StaticTower,
        open_task=data.open_task,
    )


def second() -> Edition:
    """This checkout: samplers propose, stores have a refresh policy."""
    names = ("", ".draws", ".exclusion", ".messages", ".towers", ".run.data")
    nc, draws, exclusion, messages, towers, data = (import_module(f"negcache{n}") for n in names)
    return Edition(
        nc=nc,
        refresh="refresh",
        draw=draws.draw,
        unbiased=nc.log_q_corrected,
        exclusion=exclusion.Exclusion,
        request=messages.Request,
        tower=towers.StaticTower,
        open_task=data.open_task,
    )


EDITIONS: dict[str, Callable[[], Edition]] = {"old": first, "new": second}


def step(edition: Edition) -> Run:
    """One training step of the demo's run by cached negatives."""
    torch.manual_seed(0)
    nc, task, score = edition.nc, edition.open_task("wordnet-sense"), edition.nc.DotScore(0.05)
    tower, num_items = edition.tower(task.vocab_size, D, WIDTH), len(task.corpus)
    store = nc.DenseCache(num_items, D, **{edition.refresh: REFRESHED / num_items})
    loss_fn = nc.SoftmaxLoss(
        tower, task.corpus, nc.SharedDraws(nc.CachedSoftmax(store, 1)), score,
        estimator=edition.unbiased, known_positives=task.known_positives("train"),
    )  # fmt: skip
    loss_fn.fill_cache()
    optimizer = torch.optim.Adam(tower.parameters(), lr=RATE, fused=True)
    pairs = task.learnable("train")
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    batches = iter(order.split(BATCH))

    def run() -> None:
        chosen = next(batches)
        rows, items = pairs.queries[chosen], pairs.items[chosen]
        loss_fn(tower(task.queries[rows]), items, rows).backward()
        optimizer.step()
        optimizer.zero_grad()
        loss_fn.step()
        loss_fn.report()

    return run


def draws(edition: Edition, build: Callable[[Any, Any], Any], rows: int, batch: int) -> Run:
    """One draw over unit-norm random rows; each query excludes its target.

    Args:
        build: (package, store) -> sampler.
        rows: of the store.
        batch: queries.
    """
    generator, score = torch.Generator().manual_seed(0), edition.nc.DotScore(TEMPERATURE)
    store = edition.nc.DenseCache(rows, D)
    for ids in torch.arange(rows).split(1 << 16):
        store.write(ids, F.normalize(torch.randn(len(ids), D, generator=generator), dim=1))
    queries = F.normalize(torch.randn(batch, D, generator=generator), dim=1)
    targets = torch.randint(0, rows, (batch,), generator=generator)
    exclude = edition.exclusion.from_pairs(torch.arange(batch), targets, batch)
    request = edition.request(queries, score.requires_grad_(False), targets, exclude)
    return partial(edition.draw, build(edition.nc, store), request, generator)


def _exact(nc: Any, store: Any) -> Any:
    return nc.CachedSoftmax(store, 8)


def _quadratic(count: int, nc: Any, store: Any) -> Any:
    return nc.SharedDraws(nc.quadratic(store, count))


def _index(nc: Any, store: Any) -> Any:
    return nc.SharedDraws(nc.DynamicIndex(store, 8))


SAMPLERS = {f"quadratic_{m}": partial(_quadratic, m) for m in (1, 2, 4, 8)} | {"index_8": _index}
CASES: dict[str, Callable[[Edition], Run]] = {
    "demo_step": step,
    **{
        f"exact_8_rows_{n}": partial(draws, build=_exact, rows=n, batch=256) for n in (10**5, 10**6)
    },
    **{
        f"{name}_batch_{batch}": partial(draws, build=build, rows=ROWS, batch=batch)
        for name, build in SAMPLERS.items()
        for batch in (128, 1024)
    },
}
"""Name -> what makes it ready."""


def main(name: str, source: str) -> None:
    torch.set_num_threads(1)
    edition, ready, run = EDITIONS[name](), "", None
    if not Path(edition.nc.__file__).is_relative_to(Path(source).resolve()):
        raise RuntimeError(f"negcache of {source}, not of {edition.nc.__file__}")
    for case in map(str.strip, sys.stdin):
        if run is None or case != ready:
            run = None  # before the next one takes its memory
            ready, run = case, CASES[case](edition)
        start = time.process_time()
        run()
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
