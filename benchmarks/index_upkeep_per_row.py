"""What does a written row cost the clusters of an index, and does it depend on their number?

    python -m benchmarks.index_upkeep_per_row [--items 100000 1000000] [--steps 40]

``KMeansClusters`` over clustered unit vectors, D = 64; each step 1,024 random rows move by a tenth
of their length and are told of, then the table is asked for, as a draw does. CPU microseconds a
row, one thread: ``moves``, the median step; ``refit``, one refit of the centres over the rows that
were moved before it was due, as many as there are items. The store's own write is not counted. Half
of the default sample and of its iterations, as ``index_draw_cost`` has them for a million items.

This checkout and the commit before, each in a process of its own, in turn. ``growth`` of the last
line: microseconds a row with the most items over those with the fewest.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.draw_cost_by_sampler import BEFORE, D, cpu_seconds, vectors
from benchmarks.record import append_rows, conclude, hardware
from benchmarks.second_edition import WARM_UP, workers

NAME, ROWS, MOVE = "index_upkeep_per_row", 1024, 0.1


class Scene:
    """A store, and an index that is told of its rows; by either edition."""

    def __init__(self, num_items: int) -> None:
        names = ("", ".messages", ".indexes.clusters")
        nc, self.messages, clusters = (import_module(f"negcache{name}") for name in names)
        self.num_items, self.noise = num_items, torch.Generator().manual_seed(1)
        self.store = nc.DenseCache(num_items, D)
        for part, ids in enumerate(torch.arange(num_items).split(1 << 16)):
            self.store.write(ids, vectors(len(ids), round(num_items**0.5), part + 1))
        sample = 16 * round(4 * num_items**0.5)
        self.index = clusters.KMeansClusters(sample=sample, iterations=5)
        self.ask()

    def ask(self) -> Any:
        """As a draw does."""
        self.index.update(self.store)
        return self.index.table

    def moves(self) -> Callable[[], Any]:
        """Rows have moved; what the index makes of it."""
        slots = torch.randperm(self.num_items, generator=self.noise)[:ROWS]
        old, valid = self.store.rows(slots), torch.ones(ROWS, dtype=torch.bool)
        new = old + MOVE * F.normalize(torch.randn(old.shape, generator=self.noise), dim=1)
        new = F.normalize(new, dim=1)
        self.store.write(slots, new)
        change = self.messages.RowChange(slots, old, valid, new, valid)
        return lambda: (self.index.rows_changed(change), self.ask())

    def refit(self) -> Callable[[], Any]:
        """As many rows have moved as there are; then a step, which may have to prepare itself."""
        self.index.moved, step = self.num_items, self.moves()
        return lambda: (self.ask(), step())


def serve(source: str) -> None:
    """Child process: seconds of each step that is asked for, ``moves N`` or ``refit N``."""
    torch.set_num_threads(1)
    if not Path(import_module("negcache").__file__ or "").is_relative_to(Path(source).resolve()):
        raise RuntimeError(f"negcache of another place than {source}")
    scene = None
    for what, num_items in (line.split() for line in sys.stdin):
        if scene is None or scene.num_items != int(num_items):
            scene = None  # before the next takes its memory
            scene = Scene(int(num_items))
        print(cpu_seconds(scene.moves() if what == "moves" else scene.refit()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[10**5, 10**6])
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with workers(BEFORE, "benchmarks.index_upkeep_per_row") as pair:
        for num_items in options.items:
            taken: dict[str, list[float]] = {name: [] for name in pair}
            for turn in range(WARM_UP + options.steps):
                for name, worker in pair.items():
                    seconds = worker.run(f"moves {num_items}")
                    taken[name] += [seconds] * (turn >= WARM_UP)
            for name, worker in pair.items():
                moves = 1e6 * statistics.median(taken[name]) / ROWS
                refit = 1e6 * worker.run(f"refit {num_items}") / num_items
                figures = {"moves": round(moves, 3), "refit": round(refit, 3)}
                row = {"edition": name, "items": num_items} | figures
                rows.append(row | {"both": round(moves + refit, 3)} | hardware() | {"threads": 1})
                print(*list(rows[-1].values()), flush=True)
    append_rows(NAME, rows)
    found = {n: [row for row in rows if row["edition"] == n] for n in ("new", "old")}
    growth = {
        n: {what: round(every[-1][what] / every[0][what], 3) for what in ("moves", "refit", "both")}
        for n, every in found.items()
    }
    conclude(NAME, {"growth": growth["new"], "before": growth["old"]})


if __name__ == "__main__":
    if sys.argv[1:2] in (["old"], ["new"]):
        serve(sys.argv[2])
    else:
        main()
