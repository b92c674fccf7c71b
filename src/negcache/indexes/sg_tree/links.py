"""What follows from the parents of a tree: orders, child lists, sizes, subtrees as ranges."""

from collections.abc import Iterator

import numpy as np

from negcache.compiled.arrays import NONE, ROOT, Nodes


def upwards(t: Nodes) -> np.ndarray:
    """The nodes of the tree, lower levels first: children before their parents."""
    items = np.flatnonzero(t.parent != NONE)
    return items[np.argsort(t.level[items], kind="stable")]


def levels_down(t: Nodes) -> Iterator[np.ndarray]:
    """The nodes of each level, from the root's down."""
    order = upwards(t)
    cuts = np.flatnonzero(np.diff(t.level[order])) + 1
    return reversed(np.split(order, cuts))


def relink(t: Nodes) -> None:
    """Child lists and sizes from the parents alone."""
    t.first[:], t.next[:] = -1, -1
    t.size[:] = t.parent != NONE
    offsets, children = child_ranges(t)
    has = np.flatnonzero(np.diff(offsets))
    t.first[has] = children[offsets[has]]
    t.next[children[:-1]] = children[1:]
    t.next[children[offsets[has + 1] - 1]] = -1
    for nodes in reversed(list(levels_down(t))):
        below = nodes[t.parent[nodes] != ROOT]
        np.add.at(t.size, t.parent[below], t.size[below])


def child_ranges(t: Nodes) -> tuple[np.ndarray, np.ndarray]:
    """Children of node i: ``children[offsets[i]:offsets[i + 1]]``, by id."""
    below = np.flatnonzero(t.parent >= 0)
    children = below[np.argsort(t.parent[below], kind="stable")]
    counts = np.bincount(t.parent[below], minlength=len(t.parent))
    return np.concatenate([[0], np.cumsum(counts)]), children


def preorder(t: Nodes) -> tuple[np.ndarray, np.ndarray]:
    """Items in an order where each subtree is a range, and the place of each item in it.

    The subtree of node i is ``order[place[i]:place[i] + size[i]]``.
    """
    place = np.full(len(t.parent), -1)
    offsets, children = child_ranges(t)
    before = np.concatenate([[0], np.cumsum(t.size[children])])  # of all children in the list
    within = np.zeros(len(t.parent), dtype=np.int64)
    within[children] = before[:-1] - before[offsets[t.parent[children]]]
    for nodes in levels_down(t):
        above = t.parent[nodes]
        place[nodes] = np.where(above == ROOT, 0, place[above] + 1 + within[nodes])
    items = np.flatnonzero(place >= 0)
    order = np.empty(len(items), dtype=np.int64)
    order[place[items]] = items
    return order, place


def with_all_below(t: Nodes, marked: np.ndarray) -> np.ndarray:
    """The marked nodes and everything below them."""
    marked = marked.copy()
    for nodes in levels_down(t):
        above = t.parent[nodes]
        marked[nodes] |= (above >= 0) & marked[above]
    return marked


def nearest_above(t: Nodes, chosen: np.ndarray) -> np.ndarray:
    """The nearest chosen node at or above each item, the root if there is none; ``NONE`` outside.

    Pointers are doubled until they rest: log2(depth) rounds.
    """
    items = np.arange(len(chosen))
    up = np.where(chosen | (t.parent < 0), items, t.parent)
    while True:
        further = up[up]
        if np.array_equal(further, up):
            return np.where(t.parent == NONE, NONE, up)
        up = further
