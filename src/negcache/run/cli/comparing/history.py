"""How a run went: what metrics.jsonl and timings.jsonl tell, as columns."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from negcache.errors import InputError
from negcache.shapes import Float

AXES = {
    "steps": "optimizer steps",
    "encoded": "items encoded",
    "seconds": "seconds of training",
}
"""What a curve can be drawn against; filling a cache counts, measuring does not."""


@dataclass(frozen=True)
class Curve:
    """Values along the training.

    Args:
        steps, encoded, seconds: since the start; the x axes.
        values: one for each.
    """

    steps: Float[np.ndarray, "k"]
    encoded: Float[np.ndarray, "k"]
    seconds: Float[np.ndarray, "k"]
    values: Float[np.ndarray, "k"]


@dataclass(frozen=True)
class History:
    """A run's training loss, dev measures and costs.

    Args:
        loss: mean since the line before, under the run's own estimate of the partition.
        dev: a curve of each dev measure; none where ``eval_every`` was 0.
        encoded_grad, encoded_nograd: items encoded in all.
        seconds: of all training, fills of a cache among them.
    """

    loss: Curve
    dev: dict[str, Curve]
    encoded_grad: int
    encoded_nograd: int
    seconds: float


def read_history(folder: Path, last: int) -> History:
    """The history of a run up to step ``last``; a line cut short by a kill is left out."""
    lines = [line for line in _lines(folder / "metrics.jsonl") if line["step"] <= last]
    clock = [line for line in _lines(folder / "timings.jsonl") if line["step"] <= last]
    train = [line for line in lines if "loss" in line]
    if not train or not clock:
        raise InputError(
            f"{folder} with lines in metrics.jsonl and timings.jsonl",
            f"{len(train)} and {len(clock)} up to step {last}",
            "restore the files from a copy, or train anew",
        )
    known = np.array([0, *(line["step"] for line in train)], np.float64)
    encoded = [line["encoded_grad_total"] + line["encoded_nograd_total"] for line in train]
    marks = np.array([0, *(line["step"] for line in clock)], np.float64)
    seconds = np.array([0.0, *(line["wall"] for line in clock)])

    def curve(points: list[dict[str, Any]], key: str) -> Curve:
        """Between two lines items and seconds are taken to grow evenly."""
        steps = np.array([line["step"] for line in points], np.float64)
        return Curve(
            steps,
            np.interp(steps, known, np.array([0.0, *encoded])),
            np.interp(steps, marks, seconds),
            np.array([line[key] for line in points], np.float64),
        )

    dev = [line for line in lines if any(key.startswith("dev/") for key in line)]
    names = sorted({key for line in dev for key in line if key.startswith("dev/")})
    return History(
        curve(train, "loss"),
        {name.removeprefix("dev/"): curve(dev, name) for name in names},
        int(train[-1]["encoded_grad_total"]),
        int(train[-1]["encoded_nograd_total"]),
        float(clock[-1]["wall"]),
    )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole line of a JSON-lines file."""
    if not path.is_file():
        raise InputError(f"a run with {path.name}", f"no {path}", "restore it from a copy")
    *whole, _cut = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(whole, start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise InputError(
                f"JSON in line {number} of {path}", str(error), "restore the file from a copy"
            ) from error
