"""Where results go: CSV rows with hardware and date, and one JSON line a question."""

import csv
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"


def hardware() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "date": date.today().isoformat(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def append_rows(name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows to ``results/NAME.csv``, with its header when the file is new."""
    rows = list(rows)
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    new = not path.exists()
    if not new and list(rows[0]) != (kept := path.read_text().splitlines()[0].split(",")):
        raise ValueError(f"{path} has the columns {kept}, not {list(rows[0])}: move it away")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


def read_rows(name: str) -> list[dict[str, str]]:
    """All rows of ``results/NAME.csv`` so far; none where it does not exist."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def conclude(name: str, figures: dict[str, Any]) -> None:
    """Keep the answer as ``results/NAME.json`` and print it as the last line."""
    line = json.dumps(figures)
    (RESULTS / f"{name}.json").write_text(line + "\n")
    print(line)


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int = 7) -> dict[str, float]:
    """Median seconds of each run, taken in turn (A B C A B C ...) after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def bars(name: str, rows: list[dict[str, Any]], *, group: str, label: str, value: str) -> None:
    """A bar chart for each group of rows, kept as ``results/NAME.png``."""
    groups = list(dict.fromkeys(row[group] for row in rows))
    figure = Figure(figsize=(5 * len(groups), 4), layout="constrained")
    for axes, wanted in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        chosen = [row for row in rows if row[group] == wanted]
        axes.barh([row[label] for row in chosen], [float(row[value]) for row in chosen])
        low = min(float(row[value]) for row in chosen)
        axes.set(title=f"{wanted}", xlabel=value, xlim=(0.9 * low, None))
    figure.savefig(RESULTS / f"{name}.png", dpi=100)


def curves(
    name: str,
    panels: dict[str, dict[str, list[tuple[float, float]]]],
    x: str,
    y: str,
    log_x: bool,
    log_y: bool = False,
) -> None:
    """A panel of curves (label -> points) for each key, kept as ``results/NAME.png``."""
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for axes, (title, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for label, points in lines.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
        scales = ["log" if log else "linear" for log in (log_x, log_y)]
        axes.set(title=title, xlabel=x, ylabel=y, xscale=scales[0], yscale=scales[1])
        axes.legend(fontsize="small")
    figure.savefig(RESULTS / f"{name}.png", dpi=100)
