"""What the results say: of every place the methods, best first, each against ``auto``."""

import statistics
from typing import Any

import numpy as np

from benchmarks.equal_footing import peers
from benchmarks.equal_footing.intervals import paired_interval
from benchmarks.equal_footing.ranks import read
from benchmarks.equal_footing.rounds import NAME, SEEDS, Place, place_of, rows_of
from benchmarks.record import read_rows
from negcache.shapes import Float

OURS, FLOOR = "auto", "bm25"

Values = dict[str, Float[np.ndarray, "S Q"]]


def places() -> list[Place]:
    """Where anything was tested, in the order in which it was begun."""
    return list(dict.fromkeys(place_of(r) for r in read_rows(NAME) if r["part"] == "test"))


def word(place: Place) -> str:
    """Its name in the answer."""
    return "_".join((place.regime, place.task, f"{place.seconds:g}")).translate(
        str.maketrans("-.", "__")
    )


def verdict(place: Place) -> dict[str, Any]:
    """Means over the seeds of all methods that are finished, and ``auto`` over the best peer.

    ``low`` and ``high`` are the 95 % interval of a method's MRR@10 less that of ``auto``.
    """
    rows = _finished(place)
    values = {name: _values(found) for name, found in rows.items()}
    order = sorted(rows, key=lambda name: -float(values[name].mean()))
    answer = {"methods": {name: _figures(name, rows[name], values) for name in order}}
    best = next((name for name in order if name in peers.METHODS), None)
    if best is None or OURS not in rows:
        return answer
    ratio = values[OURS].mean() / values[best].mean()
    apart = _apart(values[OURS], values[best])
    return answer | {"best_peer": best, "ratio": round(ratio, 4), "difference_95": apart}


def _finished(place: Place) -> dict[str, list[dict[str, str]]]:
    """Rows of each method that has been tested under all seeds, in their order; and of BM25."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in sorted(rows_of(place), key=lambda r: int(r["seed"])):
        if row["part"] != "trial":
            found.setdefault(row["method"], []).append(row)
    return {m: rows for m, rows in found.items() if m == FLOOR or len(rows) == len(SEEDS)}


def _values(rows: list[dict[str, str]]) -> Float[np.ndarray, "S Q"]:
    found = np.stack([read(row["ranks"]) for row in rows])
    return np.broadcast_to(found, (len(SEEDS), found.shape[1]))


def _figures(name: str, rows: list[dict[str, str]], values: Values) -> dict[str, Any]:
    known = OURS in values and name != OURS
    low, high = _apart(values[name], values[OURS]) if known else (None, None)

    def mean(column: str) -> float:
        return statistics.mean(float(row[column]) for row in rows)

    measures = {"mrr10": round(float(values[name].mean()), 5), "low": low, "high": high}
    measures |= {"r100": round(mean("r100"), 5)}
    if name == FLOOR:
        return measures | dict.fromkeys(("steps", "encoded", "encoded_a_step"))
    steps, encoded = mean("steps"), mean("encoded")
    counts = {"steps": round(steps), "encoded": round(encoded)}
    return measures | counts | {"encoded_a_step": round(encoded / steps, 1)}


def _apart(one: Float[np.ndarray, "S Q"], other: Float[np.ndarray, "S Q"]) -> list[float]:
    return [round(end, 5) for end in paired_interval(one, other)]
