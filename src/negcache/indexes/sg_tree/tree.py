"""An SG tree over vectors in arrays: built, cut, and moved with the vectors."""

import math
from types import ModuleType
from typing import Any

import numpy as np
import torch

from negcache.compiled import sg_tree
from negcache.compiled.arrays import NONE, ROOT, Nodes, Shape, empty
from negcache.errors import InputError
from negcache.indexes.sg_tree import links, reference
from negcache.indexes.sg_tree.check import check
from negcache.indexes.sg_tree.drift import uncovered_by
from negcache.indexes.sg_tree.partitions import TreePartition, cut_at, cut_into
from negcache.ops.tree_draw import TreeArrays
from negcache.shapes import Bool, Float, Int, Tensor


class SGTree:
    """Nested balls of radius ``base ** level``: every item is a node, and has one place.

    An item goes down from the root into the nearest child whose ball holds it, and where there is
    none becomes a child itself, one level below. So every ball holds all below it, and two children
    of a node are farther apart than the smaller of their balls is wide. The last level that may
    have children is that of ``resolution``: what comes there is a leaf, at any distance from
    its siblings, so that equal items make no endless chain. Distances are Euclidean.
    Source: Monath et al., AISTATS 2023.

    Args:
        base: b. Small: deep trees of narrow nodes, many times faster to build where distances
            concentrate; at 2 most items can be children of the root.
        resolution: radius of the last ball; items closer than this are not told apart.
        compiled: False: by the slow loops of ``reference``, which give the same tree.

    ``work`` is the number of distances worked out since the tree was built, the build's among them.
    """

    def __init__(
        self, base: float = 1.2, *, resolution: float = 1e-3, compiled: bool = True
    ) -> None:
        if not (1 < base < math.inf and 0 < resolution < math.inf):
            raise InputError(
                "a base above 1 and a resolution above 0",
                f"{base} and {resolution}",
                "1.2 and 0.001 suit vectors of norm 1",
            )
        floor = math.floor(math.log(resolution) / math.log(base))
        self.shape, self.compiled, self.work = Shape(base, floor), compiled, 0
        self.nodes = empty(np.zeros((0, 1), dtype=np.float32))

    def __len__(self) -> int:
        """Items in the tree."""
        return int((self.nodes.parent != NONE).sum())

    @property
    def present(self) -> Bool[Tensor, "N"]:
        """Whether each item is in the tree."""
        return torch.from_numpy(self.nodes.parent != NONE)

    @property
    def vectors(self) -> Float[Tensor, "N C"]:
        return torch.from_numpy(self.nodes.vectors)

    @property
    def root(self) -> int:
        return int(np.flatnonzero(self.nodes.parent == ROOT)[0])

    def build(
        self, vectors: Float[Tensor, "N C"], present: Bool[Tensor, "N"] | None = None
    ) -> None:
        """A tree of these items, the one nearest to their mean as root; then in order of id.

        Args:
            present: which items are in the tree; None: all.

        Raises:
            InputError: vectors that are not finite, or no items.
        """
        there = np.ones(len(vectors), bool) if present is None else present.cpu().numpy()
        self._build(_plain(vectors, there), np.flatnonzero(there))

    def insert(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M C"]) -> None:
        """Add items that are not in the tree; new numbers make it longer.

        Raises:
            InputError: items that are there already or twice, vectors that are not finite.
        """
        items, rows = ids.cpu().numpy(), _plain(vectors, np.ones(len(ids), bool))
        t, longest = self.nodes, int(items.max(initial=-1)) + 1
        known = items[(items >= 0) & (items < len(t.parent))]
        again = len(np.unique(items)) < len(items) or (t.parent[known] != NONE).any()
        if again or items.min(initial=0) < 0 or rows.shape[1] != t.vectors.shape[1]:
            raise InputError(
                f"distinct new items of {t.vectors.shape[1]} columns",
                "items that are there already or twice, or other columns",
                "remove items before you insert them again",
            )
        if longest > len(t.parent):
            more = empty(np.zeros((longest - len(t.parent), rows.shape[1]), t.vectors.dtype))
            t = self.nodes = Nodes(*(np.concatenate(pair) for pair in zip(t, more, strict=True)))
        t.vectors[items] = rows
        self._insert(items, np.full(len(items), self.root))

    def remove(self, ids: Int[Tensor, "M"]) -> int:
        """Take items out; what was below them is inserted again. Without its root a tree is built.

        Returns:
            Items that had to be inserted again.

        Raises:
            InputError: items that are not in the tree, or none would be left.
        """
        items, t = np.unique(ids.cpu().numpy()), self.nodes
        inside = len(items) == 0 or (items[0] >= 0 and items[-1] < len(t.parent))
        if not inside or (t.parent[items] == NONE).any() or len(items) == len(self):
            raise InputError(
                "items of the tree, and one to be left", f"{ids.tolist()[:3]}", "build a new tree"
            )
        gone = np.zeros(len(t.parent), bool)
        gone[items] = True
        if gone[self.root]:
            left = np.flatnonzero((t.parent != NONE) & ~gone)
            self._build(t.vectors, left)
            return len(left)
        violating = links.with_all_below(t, gone) & ~gone
        self._reinsert(violating, gone)
        return int(violating.sum())

    def update(
        self,
        vectors: Float[Tensor, "N C"],
        drift: float | None = None,
        *,
        rebuild_above: float = 1.0,
    ) -> int:
        """Move with the vectors; the items stay the same.

        Args:
            drift: bound on the change of the distance of any two items, twice the farthest
                movement: all below a node that it puts in doubt is inserted again. With less than
                the true drift covering and separation may break, sizes, reach and bound never.
                None: every distance to the nodes above and between children is measured, and what
                broke an invariant is inserted again with all below it; nothing can break.
            rebuild_above: build anew where more than this share would be inserted again.

        Returns:
            Items that were inserted again.

        Raises:
            InputError: vectors of another shape, or not finite; a negative drift.
        """
        if vectors.shape != self.nodes.vectors.shape or (drift is not None and not drift >= 0):
            raise InputError(
                f"vectors of shape {tuple(self.nodes.vectors.shape)} and a drift of 0 or more",
                f"{tuple(vectors.shape)} and {drift}",
                "insert new items, and remove old ones, before the update",
            )
        there = self.nodes.parent != NONE
        moved = self.nodes._replace(vectors=_plain(vectors, there))
        if drift is None:
            violating = np.zeros(len(there), bool)
            self.work += self._loops.mark_violations(moved, violating)
            violating = links.with_all_below(moved, violating)
        else:
            violating = uncovered_by(self.nodes, float(drift))
        self.nodes, count = moved, int(violating.sum())
        if count > rebuild_above * len(self):
            self._build(moved.vectors, np.flatnonzero(there))
            return len(self)
        self._reinsert(violating, np.zeros_like(violating))
        self.refresh()
        return count

    def refresh(self) -> None:
        """Work out reach, gap and bound anew: after removals they are safe, but not tight."""
        self.work += self._loops.refresh(self.nodes, links.upwards(self.nodes))

    def cut(self, level: int) -> TreePartition:
        """The subtrees whose heads are the highest at or below this level; others are alone."""
        return cut_at(self.nodes, level)

    def cut_into(self, num_clusters: int) -> TreePartition:
        """So many clusters, or one for each item: their heads have the most items below them."""
        return cut_into(self.nodes, num_clusters)

    def arrays(self) -> TreeArrays:
        """What the multi-level rejection sampler reads (``ops.tree_draw``)."""
        offsets, children = links.child_ranges(self.nodes)
        return TreeArrays(
            torch.from_numpy(offsets),
            torch.from_numpy(children),
            torch.from_numpy(self.nodes.size.copy()),
            torch.from_numpy(self.nodes.bound.copy()),
        )

    def check(self, *, exact: bool = False) -> None:
        """Raise ``AssertionError`` naming the first invariant that is broken (``check.check``)."""
        check(self.nodes, self.shape, exact=exact)

    def state_dict(self) -> dict[str, Any]:
        return {name: torch.from_numpy(array) for name, array in self.nodes._asdict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.nodes = Nodes(**{name: state[name].cpu().numpy().copy() for name in Nodes._fields})

    @property
    def _loops(self) -> ModuleType:
        return sg_tree if self.compiled else reference

    def _build(self, vectors: np.ndarray, items: np.ndarray) -> None:
        if not len(items):
            raise InputError("at least 1 item", "none", "a tree needs a root")
        t = self.nodes = empty(vectors)
        here = torch.from_numpy(vectors)[torch.from_numpy(items)].float()
        root = int(items[int((here - here.mean(0)).square().sum(1).argmin())])
        self.work, t.parent[root], t.size[root] = len(items), ROOT, 1
        self._loops.set_level(t, root, self.shape.floor, self.shape)
        self._raise_root(items)
        others = items[items != root]
        self._insert(others, np.full(len(others), root))

    def _raise_root(self, items: np.ndarray) -> None:
        """At once, so that its children are of one level."""
        t, root = self.nodes, self.root
        away = torch.from_numpy(t.vectors)[torch.from_numpy(items)] - torch.from_numpy(
            t.vectors[root]
        )
        far = float(torch.linalg.vector_norm(away, dim=1).max()) if len(items) else 0.0
        self.work += len(items)
        while t.cover[root] < far * (1 + 1e-6):
            self._loops.set_level(t, root, int(t.level[root]) + 1, self.shape)

    def _insert(self, items: np.ndarray, starts: np.ndarray) -> None:
        if len(items):
            self.work += self._loops.insert_many(self.nodes, items, starts, self.shape)

    def _reinsert(self, violating: np.ndarray, gone: np.ndarray) -> None:
        """Take out what is violating or gone; put back what is violating, higher levels first."""
        t, out = self.nodes, violating | gone
        items = np.flatnonzero(violating)
        items = items[np.argsort(-t.level[items], kind="stable")]
        starts = np.full(len(items), self.root)
        self.work += self._loops.find_starts(t, items, out, starts)
        t.parent[out] = NONE
        links.relink(t)
        self._raise_root(items[starts == self.root])
        self._insert(items, starts)


def _plain(vectors: Tensor, present: np.ndarray) -> np.ndarray:
    """A copy in memory, float32 or float64; rows of items that are not there are zeros."""
    rows = vectors.detach().cpu()
    rows = (rows if rows.dtype == torch.float64 else rows.float()).clone()
    there = torch.from_numpy(present)
    rows[~there] = 0
    if not bool(rows.isfinite().all()):
        raise InputError("finite vectors", "inf or nan among them", "look for a diverged tower")
    return rows.contiguous().numpy()
