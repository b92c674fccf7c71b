"""What the results say: of every place the methods, best first, each against the reference."""

import statistics
from typing import Any

import numpy as np

from benchmarks.equal_footing.intervals import paired_interval
from benchmarks.equal_footing.ranks import read
from benchmarks.equal_footing.rounds import NAME, SEEDS, Place, place_of, rows_of
from benchmarks.record import read_rows
from negcache.shapes import Float

Values = Float[np.ndarray, "S Q"]


def places() -> list[Place]:
    """Where anything was tested, in the order in which it was begun."""
    return list(dict.fromkeys(place_of(r) for r in read_rows(NAME) if r["part"] == "test"))


def word(place: Place) -> str:
    """Its name in the answer."""
    return "_".join((place.regime, place.task, f"{place.seconds:g}")).translate(
        str.maketrans("-.", "__")
    )


def verdict(place: Place) -> dict[str, Any]:
    """Means over the seeds of all methods that are finished, and the reference (``auto`` under a
    tower) over the best peer.

    ``low`` and ``high`` are the 95 % interval of a method's MRR@10 less that of the reference.
    """
    rows, ours = _finished(place), place.kind.reference
    values = {name: _values(found) for name, found in rows.items()}
    order = sorted(rows, key=lambda name: -float(values[name].mean()))
    methods = {name: _figures(rows[name], values[name], values.get(ours)) for name in order}
    best = next((name for name in order if name in place.kind.peers), None)
    answer: dict[str, Any] = {"methods": methods}
    if best is None or ours not in rows:
        return answer
    ratio = values[ours].mean() / values[best].mean()
    apart = _apart(values[ours], values[best])
    return answer | {"best_peer": best, "ratio": round(ratio, 4), "difference_95": apart}


def _finished(place: Place) -> dict[str, list[dict[str, str]]]:
    """Rows of each method that has been tested under all seeds, in their order; and the floor."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in sorted(rows_of(place), key=lambda r: int(r["seed"])):
        if row["part"] != "trial":
            found.setdefault(row["method"], []).append(row)
    return {
        m: rows for m, rows in found.items() if m == place.kind.floor[0] or len(rows) == len(SEEDS)
    }


def _values(rows: list[dict[str, str]]) -> Values:
    found = np.stack([read(row["ranks"]) for row in rows])
    return np.broadcast_to(found, (len(SEEDS), found.shape[1]))


def _figures(rows: list[dict[str, str]], found: Values, ours: Values | None) -> dict[str, Any]:
    apart = (None, None) if ours is None or ours is found else _apart(found, ours)

    def mean(column: str) -> float:
        return statistics.mean(float(row[column]) for row in rows)

    measures = {"mrr10": round(float(found.mean()), 5), "low": apart[0], "high": apart[1]}
    measures |= {"r100": round(mean("r100"), 5)}
    steps, encoded = mean("steps"), mean("encoded")
    if not steps:  # nothing was trained
        return measures | dict.fromkeys(("steps", "encoded", "encoded_a_step"))
    counts = {"steps": round(steps), "encoded": round(encoded)}
    return measures | counts | {"encoded_a_step": round(encoded / steps, 1)}


def _apart(one: Values, other: Values) -> list[float]:
    return [round(end, 5) for end in paired_interval(one, other)]
