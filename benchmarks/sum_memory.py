"""How much memory do a table of classes and the sums over it take?

    python -m benchmarks.sum_memory

A ``SoftmaxHead`` of N classes (D = 64, float32, no bias) by quadratic draws and by 1,024 random
Fourier frequencies. ``counted``: the bytes of the table and of the sums. ``peak``: how far the peak
resident memory of a process of its own grows (Linux) from before the head is built to after its
table, its sums (the first forward pass, batch 256, m = 10), four more forward and backward passes,
and as many with a sparse SGD step and the sums moved. Medians of three processes. Resumable per
(method, items, repeat).
"""

import argparse
import ast
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import negcache as nc
from benchmarks.draw_cost import peak_rss
from benchmarks.record import append_rows, conclude, curves, hardware, read_rows

NAME, D, BATCH, DRAWS, REPEATS = "sum_memory", 64, 256, 10, 3
SIZES = (100_000, 300_000, 1_000_000)
SETTINGS: dict[str, Any] = {"bias": False, "temperature": 0.05, "sparse": True}
METHODS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "quadratic": (nc.quadratic, {}),
    "rff": (partial(nc.rf_softmax, num_frequencies=1024), {"normalize": True}),
}


def grown(method: str, items: int) -> dict[str, int]:
    """Child process: bytes counted, and the growth of the peak after each stage."""
    torch.set_num_threads(1)
    sampler, settings = METHODS[method]
    warm_up(sampler, settings)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at what is held now
    before = peak_rss()
    head = nc.SoftmaxHead(items, D, sampler, DRAWS, **SETTINGS, **settings)
    found = {"peak_table": peak_rss() - before}
    train(head, 1, rate=0.0)
    found["peak_sums"] = peak_rss() - before
    train(head, 4, rate=0.0)
    found["peak_draws"] = peak_rss() - before
    train(head, 4, rate=0.1)
    found["peak_updates"] = peak_rss() - before
    sums = head.sampler.sums  # type: ignore[attr-defined]
    tensors = {"counted_table": [head.table.weight], "counted_sums": [*sums.levels, *sums.counts]}
    return {name: sum(t.nbytes for t in some) for name, some in tensors.items()} | found


def warm_up(sampler: Callable[..., Any], settings: dict[str, Any]) -> None:
    """What a first use of the libraries takes, whatever the number of classes."""
    train(nc.SoftmaxHead(1000, D, sampler, DRAWS, **SETTINGS, **settings), 2, 0.1)


def train(head: nc.SoftmaxHead, steps: int, rate: float) -> None:
    """Steps on random points; at a rate of 0 rows stay and the sums have nothing to follow."""
    optimizer = torch.optim.SGD(head.parameters(), lr=rate)
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        hidden = torch.randn(BATCH, D, generator=random)
        target = torch.randint(0, len(head.table), (BATCH,), generator=random)
        optimizer.zero_grad()
        head(hidden, target).backward()
        if rate:
            optimizer.step()
            head.table.flush()


def rows_of(method: str, items: int) -> list[dict[str, str]]:
    """What was measured so far."""
    key = (method, str(items))
    return [r for r in read_rows(NAME) if (r["method"], r["items"]) == key]


def measure(method: str, items: int, repeat: int) -> None:
    """One process; a finished one is not run again."""
    if len(rows_of(method, items)) > repeat:
        return
    command = [sys.executable, "-m", "benchmarks.sum_memory", "--one", method, str(items)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row: dict[str, Any] = {"method": method, "items": items}
    row |= ast.literal_eval(done.stdout.splitlines()[-1]) | hardware() | {"threads": 1}
    append_rows(NAME, [row])
    print(*list(row.values())[:8], flush=True)


def gigabytes(method: str, items: int, *columns: str) -> float:
    """The median over processes of a sum of columns."""
    rows = rows_of(method, items)
    return statistics.median(sum(float(r[column]) for column in columns) for r in rows) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "N"), help="measure in this process")
    options = parser.parse_args()
    if options.one:
        method, items = options.one
        print(grown(method, int(items)))
        return
    for method in METHODS:
        for items in SIZES:
            for repeat in range(REPEATS):
                measure(method, items, repeat)
    panels = {
        method: {
            label: [(float(n), gigabytes(method, n, *columns)) for n in SIZES]
            for label, columns in {
                "table, counted": ("counted_table",),
                "table and sums, counted": ("counted_table", "counted_sums"),
                "peak with sums and draws": ("peak_draws",),
                "peak with updates": ("peak_updates",),
            }.items()
        }
        for method in METHODS
    }
    curves(NAME, panels, "classes N", "GB", log_x=True, log_y=True)
    figures: dict[str, float] = {}
    for method in METHODS:
        figures[f"{method}_gb"] = round(gigabytes(method, SIZES[-1], "peak_updates"), 3)
        counted = gigabytes(method, SIZES[-1], "counted_table", "counted_sums")
        figures[f"{method}_counted_gb"] = round(counted, 3)
    conclude(NAME, figures)


if __name__ == "__main__":
    main()
