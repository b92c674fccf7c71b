"""Clusters of items that lie close together, as a table."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch

from negcache.errors import InputError
from negcache.indexes.cells import Cells
from negcache.shapes import Float, Int, Tensor


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
    """A partition of slots into clusters: the members of a cluster stand in a row, by places.

    Build it with ``from_labels``, or over a cell list as it is: once members of that have moved the
    table refuses to answer, and another is wanted. A cluster may be empty. What there is of each
    item is in ordinary memory whatever the device of the centres; ``slots`` and ``places`` look
    there.

    Args:
        centres: representative of each cluster: a mean, or the coordinates of one of its items.
        offsets: [G + 1]; cluster ``g`` has the places ``offsets[g]`` to ``offsets[g + 1]``.
        radius: at least the distance of the farthest member from the centre.
        cells: the members.
        order: which of its cells stand one after the other; None: all, as they are.
        changes: of the cells, when the table was made.
    """

    centres: Float[Tensor, "G C"]
    offsets: Int[Tensor, "_"]
    radius: Float[Tensor, "G"]
    cells: Cells = field(repr=False)
    order: Int[Tensor, "F"] | None
    changes: int

    on_host: ClassVar = ("cells", "order", "_places", "_position")

    @staticmethod
    def from_labels(
        labels: Int[Tensor, "S"], centres: Float[Tensor, "G C"], radius: Float[Tensor, "G"]
    ) -> "ClusterTable":
        """The table of slots that are in cluster ``labels[slot]``; -1: in none."""
        return ClusterTable.of(Cells(labels, len(centres)), centres, radius)

    @staticmethod
    def of(
        cells: Cells,
        centres: Float[Tensor, "G C"],
        radius: Float[Tensor, "G"],
        order: Int[Tensor, "G"] | None = None,
    ) -> "ClusterTable":
        """A cluster for each of the cells; costs as much as there are clusters.

        Args:
            order: of the cells; centres and radii are in this order.
        """
        order = None if order is None else order.cpu()
        sizes = cells.sizes if order is None else cells.sizes[order]
        offsets = _offsets(sizes).to(centres.device)
        return ClusterTable(centres, offsets, radius, cells, order, cells.changes)

    @staticmethod
    def empty() -> "ClusterTable":
        """No clusters, of no slots."""
        none = torch.empty(0)
        return ClusterTable.from_labels(none.long(), none.view(0, 0), none)

    def slots(self, places: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The members at these places, on the device of these; some slot where nobody stands."""
        total = int(self._starts[-1])
        if not total:
            return torch.zeros_like(places)
        places_here = places.cpu().clamp(0, total - 1)
        which = torch.searchsorted(self._starts, places_here, right=True) - 1
        cells = which if self.order is None else self.order[which]
        return self.cells.at(cells, places_here - self._starts[which]).to(places.device)

    def places(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Where these slots stand, on the device of these; -1: in no cluster."""
        slots_here = slots.cpu()
        cells = self.cells.labels[slots_here].long()
        which = cells if self._position is None else self._position[cells]
        places = self._starts[which] + self.cells.inside[slots_here]
        return places.where(cells >= 0, -1).to(slots.device)

    def places_or_none(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The same, where -1 among the slots stands for none and has the place -1."""
        if not len(self.cells.labels):
            return torch.full_like(slots, -1)
        return self.places(slots.clamp_min(0)).where(slots >= 0, -1)

    @property
    def num_clusters(self) -> int:
        return len(self.centres)

    @property
    def sizes(self) -> Int[Tensor, "G"]:
        """Members of each cluster."""
        return self.offsets.diff()

    @property
    def members(self) -> Int[Tensor, "n"]:
        """Slots in the order of their places, in ordinary memory; a pass over all items."""
        return self.slots(torch.arange(int(self._starts[-1])))

    @property
    def ranks(self) -> Int[Tensor, "S"]:
        """Where each slot stands, in ordinary memory; -1: in no cluster. A pass over all items."""
        return self.places(torch.arange(len(self.cells.labels)))

    @property
    def labels(self) -> Int[Tensor, "S"]:
        """The cluster of each slot, in ordinary memory; -1: in none. A pass over all items."""
        ranks = self.ranks
        clusters = torch.searchsorted(self.offsets.cpu(), ranks, right=True) - 1
        return clusters.where(ranks >= 0, -1)

    @property
    def held(self) -> HeldClusters:
        return held_by([self])

    @property
    def _starts(self) -> Int[Tensor, "_"]:
        """Place of the first member of each cell, in this order; and their number.

        Raises:
            InputError: members have moved since.
        """
        if self.changes != self.cells.changes:
            raise InputError(
                "a table of clusters as they are",
                "one from before rows of the store changed",
                "take `index.table` anew",
            )
        return self._places

    @cached_property
    def _places(self) -> Int[Tensor, "_"]:
        return _offsets(self.cells.sizes if self.order is None else self.cells.sizes[self.order])

    @cached_property
    def _position(self) -> Int[Tensor, "F"] | None:
        """Of each cell in the order."""
        if self.order is None:
            return None
        return torch.empty_like(self.order).scatter_(0, self.order, torch.arange(len(self.order)))


def held_by(tables: Iterable[ClusterTable]) -> HeldClusters:
    """What tables hold; members that several of them share count once."""
    tables = list(tables)
    on_device = (t.nbytes for each in tables for t in (each.centres, each.offsets, each.radius))
    in_memory = {id(each.cells): each.cells.nbytes for each in tables}
    return HeldClusters(sum(on_device), sum(in_memory.values()))


def _offsets(sizes: Int[Tensor, "G"]) -> Int[Tensor, "_"]:
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
