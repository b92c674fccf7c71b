"""The loops of the SG tree over its arrays, compiled. ``indexes/sg_tree/reference.py`` is the twin.

Distances are sums of squared differences in float64, so that equal items are at distance 0 and a
distance is the same from both ends.
"""

import math
from functools import partial

import numpy as np

from negcache.compiled.arrays import NONE, ROOT, Nodes, Shape
from negcache.compiled.compiling import compiled

SUM_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}


@partial(compiled, fastmath=SUM_IN_ANY_ORDER)
def squared(vectors: np.ndarray, left: int, right: int) -> float:
    """Squared distance of two rows."""
    total = 0.0
    for column in range(vectors.shape[1]):
        difference = np.float64(vectors[left, column] - vectors[right, column])
        total += difference * difference
    return total


@compiled
def set_level(t: Nodes, node: int, level: int, shape: Shape) -> None:
    t.level[node] = level
    t.cover[node] = shape.base ** float(level)
    t.finest[node] = level <= shape.floor


@compiled
def insert_many(t: Nodes, items: np.ndarray, starts: np.ndarray, shape: Shape) -> int:
    """Insert each item below its start; returns the number of distances worked out."""
    work = 0
    for place in range(len(items)):
        item, node = items[place], starts[place]
        if t.parent[node] == ROOT:
            far, work = squared(t.vectors, node, item), work + 1
            while far > t.cover[node] * t.cover[node]:
                set_level(t, node, t.level[node] + 1, shape)
        work += _descend(t, item, node, shape) + _place(t, item)
    return work


@compiled
def _descend(t: Nodes, item: int, node: int, shape: Shape) -> int:
    """Greedily: into the nearest child that covers the item, or become a child."""
    work = 0
    while True:
        into, best, nearest = -1, np.inf, np.inf
        child = -1 if t.finest[node] else t.first[node]
        while child >= 0:
            far = squared(t.vectors, child, item)
            work += 1
            nearest = min(nearest, far)
            if far <= t.cover[child] * t.cover[child] and (
                far < best or (far == best and child < into)
            ):
                into, best = child, far
            child = t.next[child]
        if into < 0:
            _hang(t, item, node, shape)
            t.gap[node] = min(t.gap[node], math.sqrt(nearest))
            return work
        node = into


@compiled
def _hang(t: Nodes, item: int, node: int, shape: Shape) -> None:
    """Make the item the first child of the node, a leaf."""
    set_level(t, item, t.level[node] - 1, shape)
    t.parent[item], t.first[item] = node, -1
    t.next[item], t.first[node] = t.first[node], item
    t.size[item], t.reach[item], t.gap[item], t.bound[item] = 1, 0.0, np.inf, 0.0


@compiled
def _place(t: Nodes, item: int) -> int:
    """Tell the nodes above of a new leaf."""
    below, node, work = item, t.parent[item], 0
    while node != ROOT:
        t.size[node] += 1
        far = math.sqrt(squared(t.vectors, node, item))
        step = far if below == item else math.sqrt(squared(t.vectors, node, below))
        t.reach[node] = max(t.reach[node], far)
        t.bound[node] = max(t.bound[node], step + t.bound[below])
        work += 1 if below == item else 2
        below, node = node, t.parent[node]
    return work


@compiled
def refresh(t: Nodes, upwards: np.ndarray) -> int:
    """Work out size, reach, gap and bound anew; returns the number of distances worked out.

    Args:
        upwards: the nodes of the tree, lower levels first.
    """
    work = 0
    for node in upwards:
        t.size[node], t.reach[node], t.gap[node], t.bound[node] = 1, 0.0, np.inf, 0.0
    for node in upwards:
        above = t.parent[node]
        if above != ROOT:
            t.size[above] += t.size[node]
            step = math.sqrt(squared(t.vectors, above, node))
            t.bound[above] = max(t.bound[above], step + t.bound[node])
            work += 1
        while above != ROOT:
            t.reach[above] = max(t.reach[above], math.sqrt(squared(t.vectors, above, node)))
            above, work = t.parent[above], work + 1
    for node in upwards:
        work += _close(t, node)
    return work


@compiled
def _close(t: Nodes, node: int) -> int:
    """Distance of the closest two children; inf at the finest level."""
    closest, work = np.inf, 0
    child = -1 if t.finest[node] else t.first[node]
    while child >= 0:
        other = t.next[child]
        while other >= 0:
            closest = min(closest, squared(t.vectors, child, other))
            other, work = t.next[other], work + 1
        child = t.next[child]
    t.gap[node] = math.sqrt(closest)
    return work


@compiled
def mark_violations(t: Nodes, violating: np.ndarray) -> int:
    """Mark items that a node above does not cover, and one of two children too close.

    Returns:
        The number of distances worked out.
    """
    work = 0
    for item in range(len(violating)):
        node = t.parent[item]
        while node >= 0 and not violating[item]:
            violating[item] = squared(t.vectors, node, item) > t.cover[node] * t.cover[node]
            node, work = t.parent[node], work + 1
    for node in range(len(violating)):
        if t.parent[node] != NONE and not t.finest[node]:
            work += _mark_close(t, node, violating)
    return work


@compiled
def _mark_close(t: Nodes, node: int, violating: np.ndarray) -> int:
    """Of two children too close, the one with fewer items below goes; of equals the later."""
    child, work = t.first[node], 0
    while child >= 0:
        other = t.next[child]
        while other >= 0 and not violating[child]:
            apart = min(t.cover[child], t.cover[other])
            work += not violating[other]
            if not violating[other] and squared(t.vectors, child, other) < apart * apart:
                fewer = t.size[child] < t.size[other]
                if fewer or (t.size[child] == t.size[other] and child > other):
                    violating[child] = True
                else:
                    violating[other] = True
            other = t.next[other]
        child = t.next[child]
    return work


@compiled
def find_starts(t: Nodes, items: np.ndarray, violating: np.ndarray, starts: np.ndarray) -> int:
    """The nearest node above each item that stays, and covers it together with all above it.

    Args:
        starts: of each item, the root; written where there is a nearer one.

    Returns:
        The number of distances worked out.
    """
    work = 0
    for place in range(len(items)):
        item, start = items[place], -1
        node = t.parent[item]
        while node >= 0:
            if violating[node]:
                start = -1
            elif squared(t.vectors, node, item) > t.cover[node] * t.cover[node]:
                start, work = -1, work + 1
            else:
                start, work = node if start < 0 else start, work + 1
            node = t.parent[node]
        if start >= 0:
            starts[place] = start
    return work
