"""What keeps a table of clusters up to date with the rows of a store."""

from typing import Any, Protocol, runtime_checkable

import torch

from negcache.errors import InputError
from negcache.indexes.cells import Cells
from negcache.indexes.cluster_table import ClusterTable
from negcache.interfaces import Observer, Store
from negcache.messages import RowChange
from negcache.ops.lloyd import distance, lloyd, nearest, refine
from negcache.ops.near import NearestCentres
from negcache.score import at_least_float32
from negcache.shapes import Float, Int, Tensor
from negcache.validation import check_finite

ROWS = 1 << 14
"""Rows of coordinates looked at at a time."""

WARM = 2
"""Iterations, at most, where there were centres before."""


@runtime_checkable
class ClusterIndex(Observer, Protocol):
    """Keeps a table of clusters over the coordinates of a store, which it observes."""

    @property
    def table(self) -> ClusterTable:
        """The clusters as they are since ``update`` was last called; empty before.

        It is good until rows change.
        """
        ...

    def update(self, store: Store) -> None:
        """Build the clusters, or move with what the store has told; cheap when nothing has changed.

        No clusters where the store holds no item yet.

        Raises:
            InputError: coordinates are not finite.
        """
        ...


class KMeansClusters:
    """Clusters by k-means over a sample; every item goes to the nearest centre.

    An item that moves goes to a cluster that is then near, mostly the nearest, and the centres
    stay: old centres cost efficiency alone. Once as many items have moved as there were when the
    centres were found, they are found again, beginning where they are: what that costs for each
    item that moved does not depend on how many items there are. Where all coordinates have been
    replaced everything is built anew.

    Args:
        num_clusters: at most so many; None: about 4 sqrt(N).
        sample: items that the centres are found from; None: 32 for each cluster.
        iterations: of Lloyd's algorithm; at most ``WARM`` where there were centres before.
        seed: of the samples.
    """

    on_host = ("cells",)

    def __init__(
        self,
        num_clusters: int | None = None,
        *,
        sample: int | None = None,
        iterations: int = 10,
        seed: int = 0,
    ) -> None:
        if (
            any(count is not None and count < 1 for count in (num_clusters, sample))
            or iterations < 0
        ):
            raise InputError(
                "num_clusters and sample of 1 or more, iterations of 0 or more",
                f"num_clusters {num_clusters}, sample {sample}, iterations {iterations}",
                "leave them out: the defaults suit most corpora",
            )
        self.num_clusters, self.sample, self.iterations = num_clusters, sample, iterations
        self.generator = torch.Generator().manual_seed(seed)
        self.invalidate()

    def invalidate(self) -> None:
        """The coordinates have been replaced as a whole: the next ``update`` builds anew."""
        self.cells: Cells | None = None
        self.near: NearestCentres | None = None
        self.centres, self.radius = torch.empty(0, 0), torch.empty(0)
        self.moved, self.built, self._table, self._loaded = 0, 0, None, False

    @property
    def table(self) -> ClusterTable:
        if self._table is None:
            if self.cells is None:
                return ClusterTable.empty()
            self._table = ClusterTable.of(self.cells, self.centres, self.radius)
        return self._table

    @torch.inference_mode(False)
    @torch.no_grad()
    def update(self, store: Store) -> None:
        if self._loaded:
            self._bring_to(store.valid.device)
        if self.cells is None or len(self.cells.labels) != store.num_rows:
            self.invalidate()
            self._build(store)
        elif self.moved >= self.built:
            self._build(store)

    @torch.inference_mode(False)
    @torch.no_grad()
    def rows_changed(self, change: RowChange) -> None:
        """Items have moved, come or gone: each goes to a cluster near it, or to none."""
        if self.cells is None:
            return
        if self._loaded:
            self._bring_to(change.new.device)
        new = finite_rows(change.new, change.is_valid).to(self.centres.dtype)
        slots, here = change.slots.cpu(), change.is_valid
        self.near = self.near or NearestCentres(self.centres)
        was = self.cells.labels[slots].to(new.device).long()
        clusters, away = self.near.of(new, was, self.radius)
        self.radius = self.radius.scatter_reduce(0, clusters[here], away[here], "amax")
        self.cells.move(slots, clusters.where(here, -1).cpu())
        self.moved, self._table = self.moved + len(slots), None
        if not bool(here.all()) and not self.cells.num_members:
            self.invalidate()  # nobody is left

    def state_dict(self) -> dict[str, Any]:
        names = ("centres", "radius", "moved", "built")
        own = {name: getattr(self, name) for name in names} | {"settings": self._settings}
        cells = None if self.cells is None else self.cells.state_dict()
        return own | {"cells": cells, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Clusters made by other settings are dropped: the next ``update`` builds anew."""
        self.invalidate()
        if state.get("settings") != self._settings or "cells" not in state:
            return
        self.generator.set_state(state["generator"].cpu())
        if state["cells"] is not None:
            self.moved, self.built = int(state["moved"]), int(state["built"])
            self.cells = Cells.of(**state["cells"])
            self.centres, self.radius = state["centres"].clone(), state["radius"].clone()
            self._loaded = True

    @property
    def _settings(self) -> dict[str, Any]:
        names = ("num_clusters", "sample", "iterations")
        return {name: getattr(self, name) for name in names}

    def _bring_to(self, device: torch.device) -> None:
        """From a state of whatever device, to that of the coordinates."""
        self.centres, self.radius = self.centres.to(device), self.radius.to(device)
        self._loaded, self._table, self.near = False, None, None

    def _build(self, store: Store) -> None:
        """Find centres from a sample, give every item to the nearest, centre clusters on their own.

        A cluster that nobody is in is dropped.
        """
        held = store.valid.nonzero().squeeze(1)
        if not len(held):
            return self.invalidate()
        wanted = self.num_clusters or max(1, round(4 * len(held) ** 0.5))
        shuffled = torch.randperm(len(held), generator=self.generator).to(held.device)
        chosen = held[shuffled[: max(wanted, self.sample or 32 * wanted)]].sort().values
        points = finite_rows(store.rows(chosen), store.valid[chosen])
        centres, start = self._centres_of(points, min(wanted, len(chosen)))
        labels, means, counts = _assign(store, NearestCentres(centres), start)
        kept = counts > 0
        renumbered = (kept.cumsum(0) - 1).where(kept, -1).cpu()
        labels = labels.where(labels < 0, renumbered[labels])
        self.invalidate()
        self.cells, self.centres = Cells(labels, int(kept.sum())), means[kept]
        self.radius, self.built = _radii(store, labels, self.centres), len(held)

    def _centres_of(
        self, points: Float[Tensor, "n C"], wanted: int
    ) -> tuple[Float[Tensor, "G C"], Int[Tensor, "S"] | None]:
        """Centres, beginning with those of before where these are about as many as are wanted.

        Returns:
            The centres, and the number that each item's own of before now has; None: no item's.
        """
        if self.cells is None or not wanted <= 2 * len(self.centres) <= 4 * wanted:
            return lloyd(points, wanted, self.iterations, self.generator), None
        more = torch.randperm(len(points), generator=self.generator)
        more = more[: max(0, wanted - len(self.centres))].to(points.device)
        start = torch.cat([self.centres, points[more].to(self.centres.dtype)])
        return refine(points, start, min(WARM, self.iterations)), self.cells.labels.long()


def _assign(
    store: Store, near: NearestCentres, start: Int[Tensor, "S"] | None
) -> tuple[Int[Tensor, "S"], Float[Tensor, "G C"], Int[Tensor, "G"]]:
    """A centre near every valid row, -1 for the others; mean and size of each cluster.

    Args:
        start: a centre that may be near each row; None: all centres are looked at.
    """
    valid, centres = store.valid, near.centres
    labels, sums = torch.full(valid.shape, -1), torch.zeros_like(centres)
    for first, block in store.chunks(ROWS):
        here = valid[first : first + len(block)]
        rows = finite_rows(block, here)[here].to(centres.dtype)
        mine = labels[first : first + len(block)]
        if start is None:
            clusters, _ = nearest(rows, centres)
        else:
            own = start[first : first + len(block)].to(here.device)[here]
            clusters, _ = near.of(rows, own)
        mine[here.cpu()] = clusters.cpu()
        sums.index_add_(0, clusters, rows)
    counts = torch.bincount(labels + 1, minlength=len(centres) + 1)[1:].to(centres.device)
    return labels, sums / counts.clamp_min(1)[:, None], counts


def _radii(
    store: Store, labels: Int[Tensor, "S"], centres: Float[Tensor, "G C"]
) -> Float[Tensor, "G"]:
    """The distance of each cluster's farthest member from its centre."""
    radius = centres.new_zeros(len(centres))
    for first, block in store.chunks(ROWS):
        clusters = labels[first : first + len(block)].to(block.device)
        here = clusters >= 0
        away = distance(block[here].to(centres.dtype), centres, clusters[here])
        radius.scatter_reduce_(0, clusters[here], away, "amax")
    return radius


def finite_rows(rows: Float[Tensor, "n C"], valid: Tensor) -> Float[Tensor, "n C"]:
    """The rows, float32 at least; the valid ones checked."""
    rows = at_least_float32(rows)
    check_finite(rows[valid], what="coordinates")
    return rows
