"""The arrays of an SG tree, as its compiled loops and their reference twin share them."""

from typing import NamedTuple

import numpy as np

ROOT, NONE = -1, -2
"""What stands in ``parent`` for the root, and for an item that is not in the tree."""


class Nodes(NamedTuple):
    """An SG tree without nested copies: node i is item i, once. All arrays but the first: [N].

    Args:
        vectors: [N, C].
        level: the node covers the ball of radius ``base ** level`` around it.
        cover: that radius.
        parent: the node above; ``ROOT``, or ``NONE``.
        first: a child, -1 where there is none.
        next: the next child of the same parent, -1 after the last.
        size: items at or below (n).
        reach: distance of the farthest item below, or more (MAXD).
        gap: distance of the closest two children, or less (MINC); inf where there are none.
        bound: ``max(dist(child) + bound(child))`` over the children, or more (UB).
        finest: children may be as close as they like and have none of their own: the last level.
    """

    vectors: np.ndarray
    level: np.ndarray
    cover: np.ndarray
    parent: np.ndarray
    first: np.ndarray
    next: np.ndarray
    size: np.ndarray
    reach: np.ndarray
    gap: np.ndarray
    bound: np.ndarray
    finest: np.ndarray


class Shape(NamedTuple):
    """What levels mean: radius ``base ** level``, down to ``floor``, the finest."""

    base: float
    floor: int


def empty(vectors: np.ndarray) -> Nodes:
    """A tree of nothing, with room for each of the vectors."""
    count = len(vectors)
    return Nodes(
        vectors=vectors,
        level=np.zeros(count, dtype=np.int64),
        cover=np.zeros(count),
        parent=np.full(count, NONE, dtype=np.int64),
        first=np.full(count, -1, dtype=np.int64),
        next=np.full(count, -1, dtype=np.int64),
        size=np.zeros(count, dtype=np.int64),
        reach=np.zeros(count),
        gap=np.full(count, np.inf),
        bound=np.zeros(count),
        finest=np.zeros(count, dtype=bool),
    )
