"""The loops of the SG tree as they would be said: slow, and the twin of ``kernels/sg_tree.py``.

Both give the same tree, distance by distance; a test compares them.
"""

from collections.abc import Iterator

import numpy as np

from negcache.compiled.arrays import NONE, ROOT, Nodes, Shape


def distances(t: Nodes, item: int, others: list[int]) -> np.ndarray:
    differences = t.vectors[others] - t.vectors[item]
    return np.sqrt((differences.astype(np.float64) ** 2).sum(axis=1))


def children(t: Nodes, node: int) -> list[int]:
    found, child = [], int(t.first[node])
    while child >= 0:
        found.append(child)
        child = int(t.next[child])
    return found


def above(t: Nodes, item: int) -> Iterator[int]:
    """The nodes above an item, the nearest first."""
    node = int(t.parent[item])
    while node >= 0:
        yield node
        node = int(t.parent[node])


def set_level(t: Nodes, node: int, level: int, shape: Shape) -> None:
    t.level[node], t.cover[node] = level, shape.base ** float(level)
    t.finest[node] = level <= shape.floor


def insert_many(t: Nodes, items: np.ndarray, starts: np.ndarray, shape: Shape) -> int:
    """Insert each item below its start; returns the number of distances worked out."""
    work = 0
    for item, start in zip(items.tolist(), starts.tolist(), strict=True):
        far = distances(t, item, [start] if t.parent[start] == ROOT else [])
        while (far > t.cover[start]).any():
            set_level(t, start, int(t.level[start]) + 1, shape)
        node, gap, looked = find_parent(t, item, start)
        set_level(t, item, int(t.level[node]) - 1, shape)
        t.parent[item], t.next[item], t.first[node] = node, t.first[node], item
        t.size[item], t.reach[item], t.gap[item], t.bound[item] = 1, 0.0, np.inf, 0.0
        t.gap[node] = min(t.gap[node], gap)
        work += len(far) + looked + tell_above(t, item)
    return work


def find_parent(t: Nodes, item: int, node: int) -> tuple[int, float, int]:
    """Where the item goes: into the nearest child that covers it, until there is none.

    Returns:
        The node whose child the item becomes, how far its nearest child is, distances looked at.
    """
    looked = 0
    while True:
        below = [] if t.finest[node] else children(t, node)
        looked += len(below)
        far = distances(t, item, below)
        covering = [(d, child) for d, child in zip(far, below, strict=True) if d <= t.cover[child]]
        if not covering:
            return node, far.min(initial=np.inf), looked
        node = min(covering)[1]


def tell_above(t: Nodes, item: int) -> int:
    """The nodes above a new leaf count it, and reach as far."""
    below, work = item, 0
    for node in above(t, item):
        away = distances(t, node, [item] if below == item else [item, below])
        far, step = away[0], away[-1]
        t.size[node] += 1
        t.reach[node] = max(t.reach[node], far)
        t.bound[node] = max(t.bound[node], step + t.bound[below])
        below, work = node, work + len(away)
    return work


def refresh(t: Nodes, upwards: np.ndarray) -> int:
    """Work out size, reach, gap and bound anew, by their definitions."""
    work = 0
    for node in upwards.tolist():
        below = children(t, node)
        steps = distances(t, node, below)
        t.size[node] = 1 + sum(t.size[child] for child in below)
        t.bound[node] = (steps + t.bound[below]).max(initial=0.0)
        t.reach[node], t.gap[node], work = 0.0, np.inf, work + len(below)
        for place, child in enumerate([] if t.finest[node] else below):
            far = distances(t, child, below[place + 1 :])
            t.gap[node], work = min(t.gap[node], far.min(initial=np.inf)), work + len(far)
    for item in upwards.tolist():
        for node in above(t, item):
            t.reach[node], work = max(t.reach[node], distances(t, node, [item])[0]), work + 1
    return work


def mark_violations(t: Nodes, violating: np.ndarray) -> int:
    """Mark items that a node above does not cover, and one of two children too close."""
    work = 0
    for item in range(len(violating)):
        for node in above(t, item):
            violating[item], work = distances(t, node, [item])[0] > t.cover[node], work + 1
            if violating[item]:
                break
    for node in range(len(violating)):
        if t.parent[node] == NONE or t.finest[node]:
            continue
        below = children(t, node)
        for place, child in enumerate(below):
            for other in below[place + 1 :]:
                apart = min(t.cover[child], t.cover[other])
                if violating[child] or violating[other]:
                    continue
                work += 1
                if distances(t, child, [other])[0] >= apart:
                    continue
                # The one with fewer items below goes; of equals the later.
                violating[min((t.size[child], -child), (t.size[other], -other))[1] * -1] = True
    return work


def find_starts(t: Nodes, items: np.ndarray, violating: np.ndarray, starts: np.ndarray) -> int:
    """The nearest node above each item that stays, and covers it together with all above it."""
    work = 0
    for place, item in enumerate(items.tolist()):
        path = list(above(t, item))
        stay = [node for node in path if not violating[node]]
        covers = {*np.array(stay)[distances(t, item, stay) <= t.cover[stay]].tolist()}
        work += len(stay)
        for node in reversed(path):
            if node not in covers:
                break
            starts[place] = node
    return work
