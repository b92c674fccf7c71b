"""The invariants of an SG tree, each worked out from the vectors and the parents alone."""

import numpy as np

from negcache.compiled.arrays import NONE, ROOT, Nodes, Shape
from negcache.indexes.sg_tree.links import child_ranges, upwards

TOLERANCE = 1e-9
"""Relative, in float64: what the order of a sum may change. Float32 vectors are read exactly."""


def check(t: Nodes, shape: Shape, *, exact: bool = False) -> None:
    """Raise ``AssertionError`` naming the first invariant that is broken.

    Args:
        exact: reach, gap and bound are what ``refresh`` gives, not only safe.
    """
    _check_every_item_once(t)
    _check_levels(t, shape)
    far, bound, gap = _reaches(t), _bounds(t), _gaps(t)
    _all(t, far <= t.cover * (1 + TOLERANCE), "a node covers what is below it")
    _all(t, t.reach <= t.cover * (1 + TOLERANCE), "reach is at most the covering radius")
    _all(t, t.reach >= far * (1 - TOLERANCE), "reach is no less than the farthest item below")
    _all(t, t.bound >= bound * (1 - TOLERANCE), "bound is no less than its recursion")
    _all(t, t.bound >= t.reach * (1 - TOLERANCE), "bound is at least reach")
    _all(t, t.gap <= gap * (1 + TOLERANCE), "gap is at most the distance of two children")
    if exact:
        for name, truth in (("reach", far), ("bound", bound), ("gap", gap)):
            have = getattr(t, name)
            _all(t, np.isclose(have, truth, rtol=1e-9, atol=1e-12), f"{name} is exact")


def _all(t: Nodes, holds: np.ndarray, law: str) -> None:
    broken = np.flatnonzero(~holds & (t.parent != NONE))
    assert not len(broken), f"{law}: broken at {len(broken)} nodes, first {broken[:3].tolist()}"


def _check_every_item_once(t: Nodes) -> None:
    """The child lists hold every item below the root once, and say the same as the parents."""
    assert (t.parent == ROOT).sum() == 1, "there is one root"
    seen, heads = np.zeros(len(t.parent), dtype=np.int64), np.flatnonzero(t.parent == ROOT)
    seen[heads] = 1
    while len(heads):
        found, child, above = [], t.first[heads], heads
        while len(child := child[(there := child >= 0)]):
            above = above[there]
            assert (t.parent[child] == above).all(), "lists of children and parents agree"
            np.add.at(seen, child, 1)
            assert (seen <= 1).all(), "no item is there twice"
            found.append(child)
            child = t.next[child]
        heads = np.concatenate(found) if found else heads[:0]
    assert np.array_equal(seen == 1, t.parent != NONE), "every item is there once"


def _check_levels(t: Nodes, shape: Shape) -> None:
    below = np.flatnonzero(t.parent >= 0)
    assert (t.level[t.parent[below]] > t.level[below]).all(), "parents have higher levels"
    radius = shape.base ** t.level.astype(float)
    _all(t, np.isclose(t.cover, radius, rtol=1e-12, atol=0), "the radius is base ** level")
    _all(t, t.finest == (t.level <= shape.floor), "the finest nodes are at the last level")
    alone = ~t.finest | (t.size == 1) | (t.level == shape.floor)
    _all(t, alone, "nothing is below the items of the finest level")
    size = (t.parent != NONE).astype(np.int64)
    for node in upwards(t):
        if t.parent[node] >= 0:
            size[t.parent[node]] += size[node]
    _all(t, t.size == size, "a node's size is what is below it, and itself")


def _apart(t: Nodes, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.sqrt(((t.vectors[left] - t.vectors[right]).astype(np.float64) ** 2).sum(axis=-1))


def _reaches(t: Nodes) -> np.ndarray:
    far = np.zeros(len(t.parent))
    items = np.flatnonzero(t.parent >= 0)
    above = t.parent[items]
    while len(items):
        np.maximum.at(far, above, _apart(t, items, above))
        above = t.parent[above]
        items, above = items[above >= 0], above[above >= 0]
    return far


def _bounds(t: Nodes) -> np.ndarray:
    bound, order = np.zeros(len(t.parent)), upwards(t)
    for node, step in zip(order, _apart(t, order, t.parent[order]), strict=True):
        if (above := t.parent[node]) >= 0:
            bound[above] = max(bound[above], step + bound[node])
    return bound


def _gaps(t: Nodes) -> np.ndarray:
    """The closest children of every node; raises where two are closer than they may be."""
    gap, (offsets, children) = np.full(len(t.parent), np.inf), child_ranges(t)
    for node in np.flatnonzero((np.diff(offsets) > 1) & ~t.finest):
        below = children[offsets[node] : offsets[node + 1]]
        for place in range(1, len(below)):
            far = _apart(t, below[:place], below[place : place + 1])
            needed = np.minimum(t.cover[below[:place]], t.cover[below[place]])
            assert (far >= needed * (1 - TOLERANCE)).all(), f"children are apart: not below {node}"
            gap[node] = min(gap[node], far.min())
    return gap
