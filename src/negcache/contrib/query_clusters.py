"""Clusters for one query: fine where the query is near, coarse where it is far."""

import math
from typing import NamedTuple

import numpy as np
import torch

from negcache.compiled.arrays import NONE, Nodes, Shape
from negcache.errors import InputError
from negcache.indexes.sg_tree import links
from negcache.shapes import Float, Int, Tensor


class QueryClusters(NamedTuple):
    """A partition of the tree's items for each query.

    Args:
        offsets: [B + 1]; query b owns the clusters ``offsets[b]:offsets[b + 1]``.
        heads: the item at the head of each cluster.
        starts, ends: its members are ``order[starts:ends]``: the head alone, or its whole subtree.
        order: the items, such that every subtree is a range.
    """

    offsets: Int[Tensor, "_"]
    heads: Int[Tensor, "K"]
    starts: Int[Tensor, "K"]
    ends: Int[Tensor, "K"]
    order: Int[Tensor, "n"]


class _Front(NamedTuple):
    """Pairs of a query and a node, and how far they are from each other."""

    queries: np.ndarray
    nodes: np.ndarray
    away: np.ndarray

    def at(self, chosen: np.ndarray) -> "_Front":
        return _Front(*(array[chosen] for array in self))


def clusters_for(
    t: Nodes,
    shape: Shape,
    queries: Float[Tensor, "B C"],
    *,
    scale: float,
    gamma: float,
    floor_level: int,
    cap: int | None = None,
) -> QueryClusters:
    """Subtrees so small that P / Q <= gamma, taken apart further where the query is near.

    One begins at the largest level at and below which every ball reaches ``log(gamma) / (2
    scale)`` at most; the items above it are clusters of their own. A subtree near the query gives
    way to its head and its children, until nothing of it is within ``base ** floor_level``.
    Source: Monath et al., AISTATS 2023, Algorithm 2, corrected.

    Args:
        queries: in the space of the vectors.
        scale: how much a logit may change over a distance of 1: beta ||h||, at most.
        gamma: bound on P(y) / Q(y); 1 or more.
        floor_level: no ball at or below this level is taken apart.
        cap: subtrees of a query looked at in a round; the farther ones stay whole. None: no cap.
    """
    points = queries.detach().cpu().double().numpy()
    if gamma < 1 or scale <= 0 or (cap is not None and cap < 0) or not np.isfinite(points).all():
        raise InputError(
            "gamma of 1 or more, scale above 0, a cap of 0 or more, finite queries",
            f"gamma {gamma}, scale {scale}, cap {cap}, or a query of inf or nan",
            "gamma 10 and the score's scale",
        )
    level, everyone = start_level(t, math.log(gamma) / (2 * scale)), np.arange(len(points))
    alone = np.flatnonzero((t.parent != NONE) & (t.level > level))
    top = (t.parent < 0) | (t.level[t.parent] > level)
    heads = np.flatnonzero((t.parent != NONE) & (t.level <= level) & top)
    clusters = _Clusters(t, len(points))
    clusters.add(np.repeat(everyone, len(alone)), np.tile(alone, len(points)), False)
    front = _front(t, points, np.repeat(everyone, len(heads)), np.tile(heads, len(points)))
    near, ranges = shape.base**floor_level, links.child_ranges(t)
    while len(front.nodes):
        opened = (t.size > 1)[front.nodes] & (t.level > floor_level)[front.nodes]
        opened &= front.away <= t.reach[front.nodes] + near
        opened = _nearest(front, opened, cap)
        clusters.add(front.queries[~opened], front.nodes[~opened], True)
        clusters.add(front.queries[opened], front.nodes[opened], False)
        front = _front(t, points, *_below(front.at(opened), *ranges))
    return clusters.done()


def start_level(t: Nodes, radius: float) -> int:
    """The largest level at and below which every ball reaches this radius at most."""
    wide = (t.parent != NONE) & (t.reach > radius)
    return int(t.level[wide].min()) - 1 if wide.any() else int(t.level[t.parent != NONE].max())


def _below(
    front: _Front, offsets: np.ndarray, children: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each query of the front with the children of its node."""
    counts = np.diff(offsets)[front.nodes]
    first = np.repeat(offsets[front.nodes] - np.cumsum(counts) + counts, counts)
    return np.repeat(front.queries, counts), children[first + np.arange(counts.sum())]


def _front(t: Nodes, points: np.ndarray, queries: np.ndarray, nodes: np.ndarray) -> _Front:
    apart = np.empty(len(nodes))
    for first in range(0, len(nodes), 1 << 16):
        some = slice(first, first + (1 << 16))
        apart[some] = np.linalg.norm(points[queries[some]] - t.vectors[nodes[some]], axis=1)
    return _Front(queries, nodes, apart)


def _nearest(front: _Front, opened: np.ndarray, cap: int | None) -> np.ndarray:
    """Of what would be opened, the ``cap`` nearest of each query."""
    if cap is None or not opened.any():
        return opened
    chosen = np.flatnonzero(opened)
    chosen = chosen[np.lexsort((front.away[chosen], front.queries[chosen]))]
    queries = front.queries[chosen]
    rank = np.arange(len(chosen)) - np.searchsorted(queries, queries)
    kept = np.zeros_like(opened)
    kept[chosen[rank < cap]] = True
    return kept


class _Clusters:
    """Gathers clusters round by round."""

    def __init__(self, t: Nodes, num_queries: int) -> None:
        self.t, self.num_queries = t, num_queries
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, queries: np.ndarray, nodes: np.ndarray, whole: bool) -> None:
        size = self.t.size[nodes] if whole else np.ones(len(nodes), dtype=np.int64)
        self.parts.append((queries, nodes, size))

    def done(self) -> QueryClusters:
        queries, heads, sizes = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        order, place = links.preorder(self.t)
        by_query = np.argsort(queries, kind="stable")
        heads, sizes = heads[by_query], sizes[by_query]
        counts = np.bincount(queries, minlength=self.num_queries)
        found = (
            np.concatenate([[0], np.cumsum(counts)]), heads, place[heads], place[heads] + sizes,
            order,
        )  # fmt: skip
        return QueryClusters(*(torch.from_numpy(array) for array in found))
