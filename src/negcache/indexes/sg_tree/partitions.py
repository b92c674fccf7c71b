"""Partitions of a tree's items: at a level, or into a number of clusters."""

from typing import NamedTuple

import numpy as np
import torch

from negcache.compiled.arrays import NONE, Nodes
from negcache.errors import InputError
from negcache.indexes.sg_tree.links import nearest_above
from negcache.shapes import Bool, Int, Tensor


class TreePartition(NamedTuple):
    """A partition of a tree's items into clusters, each around the item at its head.

    Args:
        labels: the cluster of each item; -1: not in the tree.
        heads: the item at the head of each cluster, ascending.
        whole: the cluster is the head's whole subtree; else it is what other heads have left of it.
    """

    labels: Int[Tensor, "N"]
    heads: Int[Tensor, "G"]
    whole: Bool[Tensor, "G"]


def cut_at(t: Nodes, level: int) -> TreePartition:
    """The subtrees whose heads are the highest at or below this level; others are alone."""
    return _cut(t, _heads_at(t, level))


def cut_into(t: Nodes, num_clusters: int) -> TreePartition:
    """So many clusters, or one for each item: their heads have the most items below them.

    A cluster is what is below its head and below no other head that is nearer.
    """
    if num_clusters < 1:
        raise InputError("1 cluster or more", f"{num_clusters}", "about 4 sqrt(N) suits most")
    heads = np.zeros(len(t.parent), bool)
    heads[
        np.argsort(-t.size, kind="stable")[: min(num_clusters, int((t.parent != NONE).sum()))]
    ] = True
    return _cut(t, heads)


def _cut(t: Nodes, heads: np.ndarray) -> TreePartition:
    head, ids = nearest_above(t, heads), np.flatnonzero(heads)
    labels = np.where(head == NONE, -1, np.cumsum(heads)[head] - 1)
    counts = np.bincount(labels[labels >= 0], minlength=len(ids))
    whole = torch.from_numpy(counts == t.size[ids])
    return TreePartition(torch.from_numpy(labels), torch.from_numpy(ids), whole)


def finest_level(t: Nodes, most: int) -> int:
    """The lowest level that ``cut_at`` makes at most so many heads of, or that of the root."""
    levels = np.unique(t.level[t.parent != NONE])
    few = (int(level) for level in levels if _heads_at(t, int(level)).sum() <= most)
    return next(few, int(levels[-1]))


def _heads_at(t: Nodes, level: int) -> np.ndarray:
    above = np.where(t.parent >= 0, t.level[t.parent], np.iinfo(np.int64).max)
    return ((t.level > level) | (above > level)) & (t.parent != NONE)
