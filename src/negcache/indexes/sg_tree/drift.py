"""Which items lose their place when all vectors move by a bounded distance."""

import numpy as np

from negcache.compiled.arrays import Nodes
from negcache.indexes.sg_tree.links import with_all_below


def uncovered_by(t: Nodes, drift: float) -> np.ndarray:
    """Everything below a node that cannot promise to keep its invariants.

    A node keeps what is below it if its ball, less the drift, still holds all of it, and its
    closest children would still be apart. The node itself stays where it is.
    Source: Monath et al., AISTATS 2023, Algorithm 3, corrected.

    Args:
        drift: bound on the change of the distance of any two items.
    """
    below = np.flatnonzero(t.parent >= 0)
    apart = np.zeros(len(t.parent))  # what two children must be apart at most: the wider one's ball
    np.maximum.at(apart, t.parent[below], t.cover[below])
    covered = (t.cover > drift) & (t.reach + drift <= t.cover)
    keep = covered & ((t.gap - drift >= apart) | t.finest)
    violating = np.zeros(len(t.parent), dtype=bool)
    violating[below] = ~keep[t.parent[below]]
    return with_all_below(t, violating)
