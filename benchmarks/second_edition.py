"""Is the second edition of the library no slower than the first?

    python -m benchmarks.second_edition [--repeats 15] [--seconds 5]

This checkout against version 0.1, both at work in this run: a process for each, one torch thread,
called in turn (old, new, old, new, ...) after two rounds of warm-up: ``repeats`` rounds, and more
while they have not taken ``seconds``. CPU seconds of one call:

``demo_step``: a training step as ``negcache demo`` makes it with cached negatives (WordNet senses,
static tower, D = 64, batch 128, 128 shared draws, 128 of 117,659 rows refreshed, fused Adam).
``exact_8_rows_N``: the draw of ``benchmarks.draw_cost``, 256 queries, ``CachedSoftmax(store, 8)``.
``quadratic_m_batch_B`` and ``index_8_batch_B``: ``SharedDraws(quadratic(store, m))`` and
``SharedDraws(DynamicIndex(store, 8))`` over 100,000 rows; their sums and clusters are built before.

``ratio`` is the median of new / old of the calls next to each other, with its quartiles. Each
edition prepares its own data in a temporary folder; the first is checked out there too.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.record import append_rows, conclude, hardware
from benchmarks.two_editions import CASES

NAME, FIRST, WARM_UP = "second_edition", "1d3090c", 2
CASES_OF = "benchmarks.two_editions"
ROOT = Path(__file__).resolve().parent.parent


class Worker:
    """A process of its own that runs cases with one edition.

    Args:
        edition: "old" or "new".
        source: folder of its package.
        data: where it keeps what it prepares.
        module: that runs the cases, as ``two_editions`` does.
    """

    def __init__(self, edition: str, source: Path, data: Path, module: str = CASES_OF) -> None:
        paths = {"PYTHONPATH": f"{source}{os.pathsep}{ROOT}", "NEGCACHE_CACHE": str(data)}
        command = [sys.executable, "-m", module, edition, str(source)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=data,
            env=os.environ | paths,
        )  # fmt: skip

    def run(self, case: str) -> float:
        """CPU seconds of one call."""
        return float(self.ask(case))

    def ask(self, case: str) -> str:
        """What it prints of one call."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(case, file=self.process.stdin, flush=True)
        return self.process.stdout.readline()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def workers(commit: str = FIRST, module: str = CASES_OF) -> Iterator[dict[str, Worker]]:
    """One of each edition, the old one at this commit; nothing is left of them."""
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory(prefix="negcache-editions-") as name:
        checkout, running = Path(name) / "first", {}
        quiet: dict[str, Any] = {"check": True, "capture_output": True}
        subprocess.run([*git, "add", "--detach", str(checkout), commit], **quiet)
        try:
            for edition, root in (("old", checkout), ("new", ROOT)):
                data = Path(name) / edition
                data.mkdir()
                running[edition] = Worker(edition, root / "src", data, module)
            yield running
        finally:
            for worker in running.values():
                worker.stop()
            subprocess.run([*git, "remove", "--force", str(checkout)], **quiet)


def measure(pair: dict[str, Worker], case: str, repeats: int, seconds: float) -> dict[str, Any]:
    """Medians of both, and their ratio, of calls in turn."""
    taken: dict[str, list[float]] = {name: [] for name in pair}

    def call_each() -> None:
        for name, worker in pair.items():
            taken[name].append(worker.run(case))

    for _ in range(WARM_UP):
        call_each()
    for calls in taken.values():
        calls.clear()
    while len(taken["new"]) < repeats or sum(map(sum, taken.values())) < seconds:
        call_each()
    ratios = [new / old for old, new in zip(taken["old"], taken["new"], strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "case": case,
        "repeats": len(ratios),
        **{f"{n}_ms": f"{1000 * statistics.median(calls):.4g}" for n, calls in taken.items()},
        "ratio": round(ratio, 4),
        "ratio_q25": round(low, 4),
        "ratio_q75": round(high, 4),
    }


def answer(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each case the ratio and its quartiles; the largest ratio."""
    columns = ("ratio", "ratio_q25", "ratio_q75")
    found = {row["case"]: [row[column] for column in columns] for row in rows}
    return {"largest_ratio": max(row["ratio"] for row in rows)} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="rounds, at least")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a case, at least")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    rows = []
    with workers() as pair:
        for case in options.cases:
            rows.append(measure(pair, case, options.repeats, options.seconds))
            print(*list(rows[-1].values()), flush=True)
    append_rows(NAME, [row | hardware() | {"threads": 1} for row in rows])
    conclude(NAME, answer(rows))


if __name__ == "__main__":
    main()
