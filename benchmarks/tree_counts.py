"""How many distances does an update of an SG tree need, beside building it anew, as items move?

    python -m benchmarks.tree_counts [--tasks go debian] [--rates 3e-3 3e-4 3e-5]

Static towers (D = 64), uniform shared draws, Adam: 1,000 steps at 3e-3, then 300 at each rate, Adam
begun anew. The tree of all items after 1,000 steps is brought to those of 10, 30, 100 and 300 more.
Counted are distances of two vectors, not seconds: ``anew`` of a build, ``update`` of one that
measures, and inserts again what broke an invariant with all below it (``again``: such items).
``cosine``: mean of items before and after. ``anew_s``, ``update_s``: CPU seconds beside them,
medians of five.

Bounds. An update that promises covering, and is told nothing of movements, has measured distances
that join all N items: between parts that none joins, any distance is possible. So it needs N - 1.
Two siblings too close, or an item and a node above that no longer covers it, stay so unless one of
the two, or a node between, gets another parent or level. Of such relations that have no item in
common there are ``disjoint`` (found greedily), so at least as many items change. With c = anew / N,
what a build spends on an item:

* ``at_most_by_inserts`` = 1 / (1 / c + disjoint / N), if a change costs c;
* ``at_most_published`` = 1 / (1 / c + again / N), if all below a violation is inserted again at c.

Counts are the same wherever embeddings are. Resumable per task and rate.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch

from benchmarks.automatic import methods
from benchmarks.record import append_rows, conclude, hardware, read_rows
from benchmarks.retrieval import Problem, Run, fetched, static
from negcache.compiled.arrays import Nodes
from negcache.indexes.sg_tree import SGTree, links
from negcache.indexes.sg_tree.reference import above, children, distances
from negcache.ops.nystrom import mean_cosine
from negcache.run.evaluation import encode_all
from negcache.shapes import Float, Tensor

NAME, START, RATE, STEPS, REPEATS = "tree_counts", 1000, 3e-3, (10, 30, 100, 300), 5
UNIFORM, WANTED = methods(128)["uniform_512"], 4.0


@cache
def trained(task: str) -> tuple[Problem, dict[str, Tensor]]:
    """A tower after ``START`` steps."""
    run = Run(problem := static(fetched(task)), UNIFORM, RATE, seed=0)
    list(run.train(steps=START))
    return problem, run.tower.state_dict()


def snapshots(task: str, rate: float) -> Iterator[tuple[int, Float[Tensor, "N D"]]]:
    """Embeddings of all items by the trained tower (0), then after each of ``STEPS`` more."""
    problem, state = trained(task)
    run = Run(problem, UNIFORM, rate, seed=1)
    run.tower.load_state_dict(state)
    yield 0, encode_all(run.tower, problem.items, run.score)
    for figures in run.train(steps=STEPS[-1], every=STEPS[0]):
        if figures["step"] in STEPS:
            yield figures["step"], encode_all(run.tower, problem.items, run.score)


def disjoint(t: Nodes) -> int:
    """Broken relations without a common item, greedily: so many items must change at least.

    Args:
        t: a tree whose vectors have moved.
    """
    used, found = np.zeros(len(t.parent), dtype=bool), 0
    for node in links.upwards(t).tolist():
        if not t.finest[node]:
            found += _disjoint_siblings(t, [c for c in children(t, node) if not used[c]], used)
    uncovered = _uncovered(t)
    for node in (each for each in links.upwards(t).tolist() if uncovered[each]):
        path, up = [node], list(above(t, node))
        for over, fails in zip(up, distances(t, node, up) > t.cover[up], strict=True):
            path.append(over)
            if used[path].any():
                break
            if fails:
                used[path], found = True, found + 1
                break
    return found


def _uncovered(t: Nodes) -> np.ndarray:
    """Whether a node above does not cover the item."""
    found, items = np.zeros(len(t.parent), dtype=bool), np.flatnonzero(t.parent >= 0)
    over = t.parent[items]
    while len(items):
        far = np.linalg.norm((t.vectors[items] - t.vectors[over]).astype(np.float64), axis=1)
        found[items[far > t.cover[over]]] = True
        over = t.parent[over]
        items, over = items[over >= 0], over[over >= 0]
    return found


def _disjoint_siblings(t: Nodes, free: list[int], used: np.ndarray) -> int:
    found = 0
    for place, child in enumerate(free):
        others = [other for other in free[place + 1 :] if not used[other]]
        if others and not used[child]:
            apart = np.minimum(t.cover[child], t.cover[others])
            close = np.flatnonzero(distances(t, child, others) < apart)
            if len(close):
                used[[child, others[close[0]]]], found = True, found + 1
    return found


def counted(old: Float[Tensor, "N D"], new: Float[Tensor, "N D"]) -> dict[str, Any]:
    """Distances of both ways from the old items to the new, and what bounds their ratio."""
    tree, anew = SGTree(), SGTree()
    tree.build(old)
    anew.build(new)
    broken = disjoint(tree.nodes._replace(vectors=new.numpy()))
    saved = {name: array.clone() for name, array in tree.state_dict().items()}
    before = tree.work
    again = tree.update(new)
    row: dict[str, Any] = {"items": len(new), "anew": anew.work, "update": tree.work - before}
    row |= {"again": again, "disjoint": broken, "speedup": round(anew.work / row["update"], 3)}
    row |= bounds(row)
    row["anew_s"] = f"{seconds(lambda: None, lambda: anew.build(new)):.4g}"
    back = lambda: tree.load_state_dict(saved)  # noqa: E731
    row["update_s"] = f"{seconds(back, lambda: tree.update(new)):.4g}"
    return row


def bounds(row: dict[str, Any]) -> dict[str, float]:
    """The largest speedups that counts of a row leave possible."""
    kept = (row["items"] - 1) / row["anew"]
    return {
        "at_most_by_inserts": round(1 / (kept + row["disjoint"] / row["items"]), 3),
        "at_most_published": round(1 / (kept + row["again"] / row["items"]), 3),
    }


def seconds(prepare: Callable[[], Any], work: Callable[[], Any]) -> float:
    """Median CPU seconds of the work alone."""
    taken = []
    for _ in range(REPEATS):
        prepare()
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def verdict() -> dict[str, Any]:
    """Where ``WANTED`` times is reached, by each measure: mean cosines and what they leave."""
    rows, answer = read_rows(NAME), {}
    timed = {"in_seconds": lambda row: float(row["anew_s"]) / float(row["update_s"])}
    names = ("speedup", "at_most_published", "at_most_by_inserts")
    counts = {name: lambda row, name=name: float(row[name]) for name in names}
    for name, of in (counts | timed).items():
        reached = [float(row["cosine"]) for row in rows if of(row) >= WANTED]
        missed = [float(row["cosine"]) for row in rows if of(row) < WANTED]
        answer[name] = {
            "reached": len(reached),
            "of": len(rows),
            "least_cosine_reached": min(reached, default=None),
            "greatest_cosine_missed": max(missed, default=None),
        }
    shares = [int(row["again"]) / int(row["items"]) for row in rows]
    kept = [int(row["items"]) / int(row["anew"]) for row in rows]
    answer["largest_share_again_for_4"] = round(1 / WANTED - min(kept), 4)
    answer["share_again"] = [round(min(shares), 4), round(max(shares), 4)]
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["go", "debian"])
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-3, 3e-4, 3e-5])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in options.tasks:
        for rate in options.rates:
            key = {"task": task, "rate": str(rate)}
            if any(row | key == row for row in read_rows(NAME)):
                continue
            (_, old), *later = snapshots(task, rate)
            rows = []
            for step, new in later:
                row = key | {"steps": step, "cosine": round(mean_cosine(old, new), 5)}
                rows.append(row | counted(old, new) | hardware())
                print(*list(rows[-1].values())[:14], flush=True)
            append_rows(NAME, rows)
    conclude(NAME, verdict())


if __name__ == "__main__":
    main()
