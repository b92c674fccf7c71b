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
        while t.parent[start] == ROOT and distances(t, item, [start])[0] > t.cover[start]:
            set_level(t, start, int(t.level[start]) + 1, shape)
        node, gap, looked = find_parent(t, item, start)
        set_level(t, item, int(t.level[node]) - 1, shape)
        t.parent[item], t.next[item], t.first[node] = node, t.first[node], item
        t.size[item], t.reach[item], t.gap[item], t.bound[item] = 1, 0.0, np.inf, 0.0
        t.gap[node] = min(t.gap[node], gap)
        work += looked + tell_above(t, item)
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
        far, step = distances(t, node, [item, below])
        t.size[node] += 1
        t.reach[node] = max(t.reach[node], far)
        t.bound[node] = max(t.bound[node], step + t.bound[below])
        below, work = node, work + 2
    return work


def refresh(t: Nodes, upwards: np.ndarray) -> None:
    """Work out size, reach, gap and bound anew, by their definitions."""
    for node in upwards.tolist():
        below = children(t, node)
        steps = distances(t, node, below)
        t.size[node] = 1 + sum(t.size[child] for child in below)
        t.bound[node] = (steps + t.bound[below]).max(initial=0.0)
        t.reach[node], t.gap[node] = 0.0, np.inf
        for place, child in enumerate([] if t.finest[node] else below):
            nearest = distances(t, child, below[place + 1 :]).min(initial=np.inf)
            t.gap[node] = min(t.gap[node], nearest)
    for item in upwards.tolist():
        for node in above(t, item):
            t.reach[node] = max(t.reach[node], distances(t, node, [item])[0])


def mark_violations(t: Nodes, violating: np.ndarray) -> None:
    """Mark items that a node above does not cover, and one of two children too close."""
    for item in range(len(violating)):
        if any(distances(t, node, [item])[0] > t.cover[node] for node in above(t, item)):
            violating[item] = True
    for node in range(len(violating)):
        if t.parent[node] == NONE or t.finest[node]:
            continue
        below = children(t, node)
        for place, child in enumerate(below):
            for other in below[place + 1 :]:
                apart = min(t.cover[child], t.cover[other])
                if violating[child] or violating[other] or distances(t, child, [other])[0] >= apart:
                    continue
                # The one with fewer items below goes; of equals the later.
                violating[min((t.size[child], -child), (t.size[other], -other))[1] * -1] = True


def find_starts(t: Nodes, items: np.ndarray, violating: np.ndarray, root: int) -> np.ndarray:
    """The nearest node above each item that stays, and covers it together with all above it."""
    starts = []
    for item in items.tolist():
        start = root
        for node in reversed(list(above(t, item))):
            if violating[node] or distances(t, node, [item])[0] > t.cover[node]:
                break
            start = node
        starts.append(start)
    return np.array(starts, dtype=np.int64)
