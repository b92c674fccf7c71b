"""Clusters of items that lie close together, as a table; and what keeps it up to date."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from negcache.errors import InputError
from negcache.interfaces import Observer, Store
from negcache.messages import RowChange
from negcache.ops.lloyd import distance, lloyd, nearest
from negcache.score import at_least_float32
from negcache.shapes import Float, Int, Tensor
from negcache.validation import check_finite

ROWS = 1 << 14
"""Rows of coordinates looked at at a time."""


@dataclass(frozen=True)
class HeldClusters:
    """Bytes of tables of clusters.

    Args:
        on_device: on the device of the coordinates: centres, offsets, radii.
        in_memory: in ordinary memory: what there is of each item.
    """

    on_device: int
    in_memory: int


@dataclass(frozen=True)
class ClusterTable:
    """A partition of slots into clusters: the members of a cluster stand in a row.

    Build it with ``from_labels``. A cluster may be empty. Members and ranks, a number for each
    item, are in ordinary memory whatever the device of the centres; ``slots`` and ``places`` look
    there.

    Args:
        centres: representative of each cluster: a mean, or the coordinates of one of its items.
        offsets: [G + 1]; cluster ``g`` owns ``members[offsets[g]:offsets[g + 1]]``.
        members: slots, cluster by cluster.
        ranks: where each slot stands among the members; -1: in no cluster.
        radius: at least the distance of the farthest member from the centre.
    """

    centres: Float[Tensor, "G C"]
    offsets: Int[Tensor, "_"]
    members: Int[Tensor, "n"]
    ranks: Int[Tensor, "S"]
    radius: Float[Tensor, "G"]

    @staticmethod
    def from_labels(
        labels: Int[Tensor, "S"], centres: Float[Tensor, "G C"], radius: Float[Tensor, "G"]
    ) -> "ClusterTable":
        """The table of slots that are in cluster ``labels[slot]``; -1: in none."""
        labels = labels.cpu()
        narrow = torch.int16 if len(centres) < 1 << 15 else torch.int64  # sorts six times faster
        order = labels.to(narrow).argsort(stable=True)
        counts = torch.bincount(labels + 1, minlength=len(centres) + 1)
        members = order[int(counts[0]) :]
        ranks = torch.full_like(labels, -1)
        ranks[members] = torch.arange(len(members))
        offsets = torch.cat([counts.new_zeros(1), counts[1:].cumsum(0)])
        return ClusterTable(centres, offsets.to(centres.device), members, ranks, radius)

    @staticmethod
    def empty() -> "ClusterTable":
        """No clusters, of no slots."""
        none = torch.empty(0)
        return ClusterTable.from_labels(none.long(), none.view(0, 0), none)

    def slots(self, places: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The members at these places, on the device of these."""
        return self.members[places.cpu()].to(places.device)

    def places(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The ranks of these slots, on the device of these; -1: in no cluster."""
        return self.ranks[slots.cpu()].to(slots.device)

    def places_or_none(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The same, where -1 among the slots stands for none and has the place -1."""
        return self.places(slots.clamp_min(0)).where(slots >= 0, -1)

    @property
    def num_clusters(self) -> int:
        return len(self.centres)

    @property
    def sizes(self) -> Int[Tensor, "G"]:
        """Members of each cluster."""
        return self.offsets.diff()

    @property
    def labels(self) -> Int[Tensor, "S"]:
        """The cluster of each slot, in ordinary memory; -1: in none."""
        clusters = torch.searchsorted(self.offsets.cpu(), self.ranks, right=True) - 1
        return clusters.where(self.ranks >= 0, -1)

    @property
    def held(self) -> HeldClusters:
        return held_by([self])


def held_by(tables: Iterable[ClusterTable]) -> HeldClusters:
    """What tables hold; members that several of them share count once."""
    tables = list(tables)
    on_device = (t.nbytes for each in tables for t in (each.centres, each.offsets, each.radius))
    in_memory = {id(t): t.nbytes for each in tables for t in (each.members, each.ranks)}
    return HeldClusters(sum(on_device), sum(in_memory.values()))


@runtime_checkable
class ClusterIndex(Observer, Protocol):
    """Keeps a table of clusters over the coordinates of a store, which it observes."""

    @property
    def table(self) -> ClusterTable:
        """The clusters as they are since ``update`` was last called; empty before."""
        ...

    def update(self, store: Store) -> None:
        """Build the clusters, or move with what the store has told; cheap when nothing has changed.

        Raises:
            InputError: the store holds no item, or coordinates are not finite.
        """
        ...


class KMeansClusters:
    """Clusters by k-means over a sample; every item goes to the nearest centre.

    An item that moves goes to the cluster that is then nearest, and the centres stay: old centres
    cost efficiency alone. Once as many items have moved as there are, or all coordinates have been
    replaced, everything is built anew.

    Args:
        num_clusters: at most so many; None: about 4 sqrt(N).
        sample: items that the centres are found from; None: 32 for each cluster.
        iterations: of Lloyd's algorithm.
        seed: of the samples.
    """

    on_host = ("labels",)

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
        self.labels: Tensor | None = None
        self.centres, self.radius = torch.empty(0, 0), torch.empty(0)
        self.moved, self._table, self._loaded = 0, None, False

    @property
    def table(self) -> ClusterTable:
        if self._table is None:
            if self.labels is None:
                return ClusterTable.empty()
            self._table = ClusterTable.from_labels(self.labels, self.centres, self.radius)
        return self._table

    @torch.no_grad()
    def update(self, store: Store) -> None:
        grown = self.labels is not None and len(self.labels) != store.num_rows
        if self.labels is None or grown or self.moved >= store.num_rows:
            self._build(store)
        elif self._loaded:
            self._bring_to(store.valid.device)

    @torch.no_grad()
    def rows_changed(self, change: RowChange) -> None:
        """Items have moved, come or gone: each goes to the nearest cluster, or to none."""
        if self.labels is None:
            return
        if self._loaded:
            self._bring_to(change.new.device)
        new = finite_rows(change.new, change.is_valid).to(self.centres.dtype)
        clusters, away = nearest(new, self.centres)
        here = change.is_valid
        self.radius = self.radius.scatter_reduce(0, clusters[here], away[here], "amax")
        self.labels = self.labels.clone()
        self.labels[change.slots.cpu()] = clusters.where(here, -1).cpu()
        self.moved, self._table = self.moved + len(change.slots), None
        if not bool(here.all()) and not bool((self.labels >= 0).any()):
            self.invalidate()  # nobody is left

    def state_dict(self) -> dict[str, Any]:
        names = ("labels", "centres", "radius", "moved")
        own = {name: getattr(self, name) for name in names} | {"settings": self._settings}
        return own | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Clusters made by other settings are dropped: the next ``update`` builds anew."""
        self.invalidate()
        if state.get("settings") != self._settings:
            return
        self.generator.set_state(state["generator"].cpu())
        self.moved = int(state["moved"])
        if state["labels"] is not None:
            self.labels, self.centres = state["labels"].clone().cpu(), state["centres"].clone()
            self.radius, self._loaded = state["radius"].clone(), True

    @property
    def _settings(self) -> dict[str, Any]:
        names = ("num_clusters", "sample", "iterations")
        return {name: getattr(self, name) for name in names}

    def _bring_to(self, device: torch.device) -> None:
        """From a state of whatever device, to that of the coordinates."""
        self.centres, self.radius = self.centres.to(device), self.radius.to(device)
        self._loaded, self._table = False, None

    def _build(self, store: Store) -> None:
        """Find centres from a sample, give every item to the nearest, centre clusters on their own.

        A cluster that nobody is in is dropped.
        """
        self.invalidate()
        held = store.valid.nonzero().squeeze(1)
        if not len(held):
            raise InputError(
                "a store that holds items", "one without any", "fill it: SoftmaxLoss.fill_cache()"
            )
        wanted = self.num_clusters or max(1, round(4 * len(held) ** 0.5))
        shuffled = torch.randperm(len(held), generator=self.generator).to(held.device)
        chosen = held[shuffled[: max(wanted, self.sample or 32 * wanted)]].sort().values
        points = finite_rows(store.rows(chosen), store.valid[chosen])
        centres = lloyd(points, min(wanted, len(chosen)), self.iterations, self.generator)
        labels, means, counts = _assign(store, centres)
        kept = counts > 0
        renumbered = (kept.cumsum(0) - 1).where(kept, -1).cpu()
        labels = labels.where(labels < 0, renumbered[labels])
        self.labels, self.centres = labels, means[kept]
        self.radius = _radii(store, labels, self.centres)


def _assign(
    store: Store, centres: Float[Tensor, "G C"]
) -> tuple[Int[Tensor, "S"], Float[Tensor, "G C"], Int[Tensor, "G"]]:
    """The nearest centre of every valid row, -1 for the others; mean and size of each cluster."""
    valid = store.valid
    labels, sums = torch.full(valid.shape, -1), torch.zeros_like(centres)
    for first, block in store.chunks(ROWS):
        here = valid[first : first + len(block)]
        rows = finite_rows(block, here)[here].to(centres.dtype)
        clusters, _ = nearest(rows, centres)
        labels[first : first + len(block)][here.cpu()] = clusters.cpu()
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
