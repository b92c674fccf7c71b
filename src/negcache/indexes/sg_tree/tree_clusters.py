"""Clusters of a store's coordinates by an SG tree, which moves with them."""

import math
from typing import Any

import torch

from negcache.errors import InputError
from negcache.indexes.clusters import ROWS, ClusterTable
from negcache.indexes.sg_tree.partitions import finest_level
from negcache.indexes.sg_tree.tree import SGTree
from negcache.interfaces import Store
from negcache.messages import RowChange
from negcache.ops.lloyd import distance
from negcache.ops.tree_draw import Frontier, TreeArrays
from negcache.score import at_least_float32
from negcache.shapes import Bool, Float, Int, Tensor


class TreeClusters:
    """The clusters of an SG tree, cut into a number of them or at a level; a ``ClusterIndex``.

    Items that come, go or move on their own are inserted and removed; where all coordinates may
    have moved, or more single items than ``rebuild_above`` says, the tree is updated.

    Args:
        num_clusters: at most so many; None: about 4 sqrt(N).
        level: partition at this level instead.
        base: of the tree.
        resolution: of the tree.
        centre: ``mean`` of a cluster, or ``head``: its item highest in the tree.
        drift: the quantile of movements that an update takes for the farthest, in (0, 1]: 1 is the
            farthest itself, 0.95 the published choice; None: each invariant is measured.
        rebuild_above: build anew where an update would insert more than this share again.
    """

    on_host = ("changed",)

    def __init__(
        self,
        num_clusters: int | None = None,
        *,
        level: int | None = None,
        base: float = 1.2,
        resolution: float = 1e-3,
        centre: str = "mean",
        drift: float | None = None,
        rebuild_above: float = 0.5,
    ) -> None:
        if num_clusters is not None and (num_clusters < 1 or level is not None):
            raise InputError(
                "num_clusters of 1 or more, or a level instead",
                f"num_clusters {num_clusters}, level {level}",
                "leave both out for about 4 sqrt(N) clusters",
            )
        if centre not in ("mean", "head") or not (drift is None or 0 < drift <= 1):
            raise InputError(
                "centre `mean` or `head`, drift between 0 and 1",
                f"{centre!r} and {drift}",
                "the defaults are `mean` and None",
            )
        self.num_clusters, self.level, self.centre = num_clusters, level, centre
        self.base, self.resolution = base, resolution
        self.drift, self.rebuild_above, self.reinserted = drift, rebuild_above, 0
        self.tree, self._table = SGTree(base, resolution=resolution), None
        self.changed, self.moved = torch.zeros(0, dtype=torch.bool), True
        self._loaded = False

    @property
    def table(self) -> ClusterTable:
        return ClusterTable.empty() if self._table is None else self._table

    @torch.inference_mode(False)
    def rows_changed(self, change: RowChange) -> None:
        """Items have moved, come or gone: the tree hears of them when it next follows."""
        most = int(change.slots.max()) + 1 if len(change.slots) else 0
        if most > len(self.changed):
            more = torch.zeros(most - len(self.changed), dtype=torch.bool)
            self.changed = torch.cat([self.changed, more])
        self.changed[change.slots.cpu()] = True

    def invalidate(self) -> None:
        """All coordinates have been replaced; who is still there keeps a place in the tree."""
        self.moved = True

    @torch.inference_mode(False)
    @torch.no_grad()
    def update(self, store: Store) -> None:
        """Build the tree, or move with what the store has told; nothing if nothing has changed.

        ``reinserted`` then says how many items went to another place, all of them after a build. No
        clusters where the store holds no item yet.

        Raises:
            InputError: coordinates are not finite.
        """
        grown = store.num_rows != len(self.tree.present)
        if self._table is not None and not (self.moved or grown or bool(self.changed.any())):
            if self._loaded:  # a table of ordinary memory, whatever the device
                self._table, self._loaded = self._cut(store.valid.device), False
            return
        valid = store.valid.cpu()
        if not bool(valid.any()):
            self._table, self._loaded, self.reinserted = None, False, 0
            return
        self.reinserted = self._move(store, valid)
        self.moved, self.changed = False, torch.zeros_like(valid)
        self._table, self._loaded = self._cut(store.valid.device), False

    def state_dict(self) -> dict[str, Any]:
        own = {"changed": self.changed, "moved": self.moved, "reinserted": self.reinserted}
        return own | {"tree": self.tree.state_dict(), "settings": self._settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Clusters of a tree of other settings, or partitioned otherwise, are not taken over."""
        if state.get("settings") != self._settings:
            self.invalidate()
            return
        self.changed, self.moved = state["changed"].cpu().clone(), bool(state["moved"])
        self.reinserted = int(state["reinserted"])
        self.tree.load_state_dict(state["tree"])
        self._table = self._cut(torch.device("cpu")) if len(self.tree) else None
        self._loaded = self._table is not None

    def subtrees(self) -> tuple[TreeArrays, Frontier]:
        """The tree, and a level of it with at most as many nodes as there are clusters.

        Raises:
            InputError: there is no item.
        """
        if self._table is None:
            raise InputError(
                "a store that holds items", "one without any", "fill it: SoftmaxLoss.fill_cache()"
            )
        level = self.level
        if level is None:
            level = finest_level(self.tree.nodes, self.table.num_clusters)
        partition = self.tree.cut(level)
        return self.tree.arrays(), Frontier(partition.heads, partition.whole)

    @property
    def _settings(self) -> dict[str, Any]:
        """What makes a tree and partitions it; how it moves may change from run to run."""
        names = ("num_clusters", "level", "centre", "base", "resolution")
        return {name: getattr(self, name) for name in names}

    def _move(self, store: Store, valid: Bool[Tensor, "S"]) -> int:
        """Bring the tree to the coordinates of today; returns the items put to another place."""
        known = len(self.tree.present)
        was, changed = torch.zeros_like(valid), torch.zeros_like(valid)
        if known <= len(valid):
            was[:known] = self.tree.present
            changed[: len(self.changed)] = self.changed
        single = was & valid & changed
        update = self.moved or int(single.sum()) > self.rebuild_above * int(was.sum())
        out, came = was & ~valid, valid & ~was
        if not update:
            out, came = out | single, came | single
        columns = store.rows(_ids(store.valid)[:1]).shape[1]
        if not bool((was & ~out).any()) or columns != self.tree.vectors.shape[1]:
            self.tree.build(_all_rows(store), valid)
            return len(self.tree)
        again = self.tree.remove(_ids(out)) if bool(out.any()) else 0
        if update:
            again += self._update(_all_rows(store)[:known])
        if bool(came.any()):
            rows = store.rows(_ids(came).to(store.valid.device))
            self.tree.insert(_ids(came), rows)
        return again + int(came.sum())

    def _update(self, rows: Float[Tensor, "N C"]) -> int:
        drift = None
        if self.drift is not None:
            there = self.tree.present
            went = torch.linalg.vector_norm(rows[there] - self.tree.vectors[there], dim=1)
            drift = 2 * float(went.kthvalue(math.ceil(self.drift * len(went))).values)
        return self.tree.update(rows, drift, rebuild_above=self.rebuild_above)

    def _cut(self, device: torch.device) -> ClusterTable:
        """The table of the tree as it is."""
        wanted = self.num_clusters or max(1, round(4 * len(self.tree) ** 0.5))
        partition = self.tree.cut_into(wanted) if self.level is None else self.tree.cut(self.level)
        rows, labels = self.tree.vectors, partition.labels
        here = labels >= 0
        centres = rows[partition.heads]
        if self.centre == "mean":
            counts = torch.bincount(labels[here], minlength=len(centres))
            centres = torch.zeros_like(centres).index_add_(0, labels[here], rows[here])
            centres /= counts[:, None]
        away = distance(rows[here], centres, labels[here])
        radius = torch.zeros_like(centres[:, 0])
        radius.scatter_reduce_(0, labels[here], away, "amax")
        return ClusterTable.from_labels(labels, centres.to(device), radius.to(device))


def _ids(mask: Bool[Tensor, "S"]) -> Int[Tensor, "M"]:
    return mask.nonzero().squeeze(1)


def _all_rows(store: Store) -> Float[Tensor, "S C"]:
    return torch.cat([at_least_float32(rows).cpu() for _, rows in store.chunks(ROWS)])
