"""How does the cost of a sampled loss grow with the number of classes? Kernel draws, exact ones.

    python -m benchmarks.draw_cost_vs_items

The forward pass of the loss over n random unit-norm class vectors in a ``SoftmaxHead`` (D = 64,
scale 20, m = 10 draws per query), for batches of 10 and of 256. ``full`` is the forward pass of the
full softmax: one matrix product, one ``cross_entropy``. That is the published meaning of "exact",
and what the speedup is against. Its rows are taken as they are; the head normalises those it reads,
which is in its time, and ``full_normalized``, the same function, normalises all of them. ``exact``
draws from the softmax itself; ``product`` is the matrix product of ``full`` alone: no method that
scores every class is faster. Medians of methods taken in turn; CPU seconds on one thread, since the
machine may do other work.

``update``: ``table.flush()``, which moves the sums of the rows that the step has moved, and its
share of a training step (forward, backward, sparse SGD, settle); means over the steps. Resumable
per (items, batch).
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
from benchmarks.record import append_rows, conclude, curves, hardware, read_rows
from negcache.shapes import Float, Int, Tensor

NAME, D, DRAWS, SCALE = "draw_cost_vs_items", 64, 10, 20.0
SIZES, BATCHES, FREQUENCIES = (
    (10_000, 50_000, 200_000, 500_000, 1_000_000),
    (10, 256),
    (50, 200, 500, 1000),
)
REPEATS, STEPS = {10: 21, 256: 7}, {10: 30, 256: 10}

SAMPLERS: dict[str, Callable[[nc.LiveTable, int], Any]] = {
    "exact": nc.CachedSoftmax,
    "quadratic": nc.quadratic,
    **{f"rff_{r}": partial(nc.rf_softmax, num_frequencies=r, nu=4.0) for r in FREQUENCIES},
}
FLAT = ("product", "full", "full_normalized", "exact")
METHODS = (*FLAT, *(method for method in SAMPLERS if method not in FLAT))
PUBLISHED = {
    "exact": (1.4, 32.3), "quadratic": (6.5, 8.2), "rff_50": (0.5, 1.6),
    "rff_200": (0.6, 1.7), "rff_500": (1.2, 2.0), "rff_1000": (1.4, 2.4),
}  # fmt: skip
"""Milliseconds at n = 10,000 and 500,000 in Rawat et al. 2019, on a machine of theirs."""


def head(classes: Float[Tensor, "N D"], method: str) -> nc.SoftmaxHead:
    """A head over these class vectors."""
    built = nc.SoftmaxHead(
        len(classes),
        D,
        SAMPLERS[method],
        DRAWS,
        bias=False,
        normalize=True,
        temperature=1 / SCALE,
        sparse=True,
    )
    with torch.no_grad():
        built.weight.copy_(classes)
    return built


def full(
    classes: Float[Tensor, "N D"], hidden: Float[Tensor, "B D"], target: Int[Tensor, "B"]
) -> Float[Tensor, ""]:
    """The loss over all classes, as one writes it."""
    return F.cross_entropy(SCALE * F.normalize(hidden, dim=1) @ classes.T, target)


def clock() -> float:
    """CPU seconds of this process; wall seconds where it has several threads."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def in_turn(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each run, A B C A B C ..., after two rounds of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 2):
        for name, run in runs.items():
            start = clock()
            run()
            if turn > 1:
                seconds[name].append(clock() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def update(
    built: nc.SoftmaxHead, hidden: Float[Tensor, "B D"], steps: int, random: torch.Generator
) -> dict[str, float]:
    """Training steps: rows that the sums follow in a second, and their share of the step."""
    optimizer = torch.optim.SGD(built.parameters(), lr=0.1)
    total, settling, rows = 0.0, 0.0, 0
    for step in range(steps + 2):
        target = torch.randint(0, len(built.table), (len(hidden),), generator=random)
        optimizer.zero_grad()
        start = clock()
        built(hidden, target).backward()
        optimizer.step()
        before = clock()
        built.table.flush()
        end = clock()
        if step > 1:
            total, settling = total + end - start, settling + end - before
            rows += len(built.table.weight.grad.coalesce().indices()[0])  # type: ignore[union-attr]
    return {"rows_per_step": rows / steps, "rows_per_s": rows / settling,
            "step_s": total / steps, "update_share": settling / total}  # fmt: skip


def measure(
    classes: Float[Tensor, "N D"], heads: dict[str, nc.SoftmaxHead], batch: int
) -> list[dict[str, Any]]:
    """All methods on one batch."""
    random = torch.Generator().manual_seed(batch)
    hidden = torch.randn(batch, D, generator=random).requires_grad_()
    target = torch.randint(0, len(classes), (batch,), generator=random)
    trained = classes.clone().requires_grad_()
    runs: dict[str, Callable[[], Any]] = {
        "product": partial(
            torch.mm, hidden.detach(), classes.T, out=torch.empty(batch, len(classes))
        ),
        "full": partial(full, trained, hidden, target),
        "full_normalized": lambda: full(F.normalize(trained, dim=1), hidden, target),
    }
    runs |= {method: partial(built, hidden, target) for method, built in heads.items()}
    forward, rows = in_turn(runs, REPEATS[batch]), []
    del runs
    for method in METHODS:
        row = {"items": len(classes), "batch": batch, "method": method}
        row |= {"forward_ms": f"{1000 * forward[method]:.4g}"}
        found = dict.fromkeys(("rows_per_step", "rows_per_s", "step_s", "update_share"), "")
        if method in heads and method != "exact":
            moved = update(heads[method], hidden, STEPS[batch], random)
            found = {name: f"{value:.4g}" for name, value in moved.items()}
        rows.append(row | found | hardware())
        print(*list(rows[-1].values())[:8], flush=True)
    return rows


def figure(items: int, batch: int, method: str, column: str = "forward_ms") -> float:
    """The latest measurement."""
    key = (str(items), str(batch), method)
    rows = [r for r in read_rows(NAME) if (r["items"], r["batch"], r["method"]) == key]
    return float(rows[-1][column])


def crossing(batch: int, against: str) -> dict[str, int | None]:
    """The smallest n of those measured from which each kernel method is always faster."""
    answer = {}
    for method in METHODS[len(FLAT) :]:
        faster = [figure(n, batch, method) < figure(n, batch, against) for n in SIZES]
        last = max((place for place, won in enumerate(faster) if not won), default=-1)
        answer[method] = SIZES[last + 1] if last + 1 < len(SIZES) else None
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    for items in SIZES:
        done = {(r["items"], r["batch"]) for r in read_rows(NAME)}
        batches = [batch for batch in BATCHES if (str(items), str(batch)) not in done]
        if batches:
            random = torch.Generator().manual_seed(0)
            classes = F.normalize(torch.randn(items, D, generator=random), dim=1)
            heads = {method: head(classes, method) for method in SAMPLERS}
            for batch in batches:
                append_rows(NAME, measure(classes, heads, batch))
    panels = {
        f"batch {batch}": {
            method: [(float(n), figure(n, batch, method)) for n in SIZES] for method in METHODS
        }
        for batch in BATCHES
    }
    curves(NAME, panels, "classes n", "forward pass of the loss (ms)", log_x=True, log_y=True)
    conclude(NAME, answer())


def answer() -> dict[str, Any]:
    """Speed, growth, crossings, updates; the published table beside ours."""
    for method, published in PUBLISHED.items():
        ours = [figure(n, 10, method if method != "exact" else "full") for n in (10_000, 500_000)]
        print(method, "published ms", *published, "ours", *ours)
    rff = "rff_1000"
    figures = {
        "rff_speedup_500k": figure(500_000, 10, "full") / figure(500_000, 10, rff),
        "rff_speedup_500k_over_full_normalized": figure(500_000, 10, "full_normalized")
        / figure(500_000, 10, rff),
        "rff_speedup_500k_over_exact_draws": figure(500_000, 10, "exact")
        / figure(500_000, 10, rff),
        "rff_growth_10k_1m": figure(1_000_000, 10, rff) / figure(10_000, 10, rff),
        "quadratic_speedup_500k": figure(500_000, 10, "full") / figure(500_000, 10, "quadratic"),
    }
    answer: dict[str, Any] = {name: round(value, 2) for name, value in figures.items()}
    for batch in BATCHES:
        for against in ("full", "product"):
            answer[f"crossing_{batch}_against_{against}"] = crossing(batch, against)
        for method in ("quadratic", rff):
            for column in ("rows_per_s", "update_share"):
                name = f"{method}_{column}_batch_{batch}_1m"
                answer[name] = figure(1_000_000, batch, method, column)
    return answer


if __name__ == "__main__":
    main()
