"""Members of clusters as a cell list: those that move are moved, and nobody else is looked at.

Each cluster has a run of an array with room to spare. Who leaves is replaced by the last of its
cluster, who comes stands behind it; a cluster without room moves to the end of the array, with
twice the room. A change of M items costs M steps, whatever the number of items. Where a run lies
and what room it has decides nothing: members and their order are all there is to save.
"""

from typing import Any

import torch

from negcache.shapes import Int, Tensor

ROOM = 4
"""Members for which there is room for one more, at first."""

IDLE = 4
"""All is laid out anew where runs take so many times what members and clusters would."""


class Cells:
    """Slots in clusters, in an order within each; all in ordinary memory.

    Args:
        labels: cluster of each slot, -1: in none. Members begin in the order of their slots.
        num_clusters: G.

    Attributes:
        labels: as they are now.
        inside: place of each slot within its cluster.
        sizes: members of each cluster.
        touched: members written since the beginning, by whatever change.
        changes: how often members have moved.
    """

    labels: Int[Tensor, "S"]
    inside: Int[Tensor, "S"]
    sizes: Int[Tensor, "G"]

    def __init__(self, labels: Int[Tensor, "S"], num_clusters: int) -> None:
        labels = labels.cpu()
        narrow = torch.int16 if num_clusters < 1 << 15 else torch.int64  # sorts six times faster
        order = labels.to(narrow).argsort(stable=True)
        counts = torch.bincount(labels + 1, minlength=num_clusters + 1)
        members, self.sizes = order[int(counts[0]) :], counts[1:]
        compact = torch.int32 if len(labels) < 1 << 31 else torch.int64
        self.labels = labels.to(compact, copy=True)
        self.inside = torch.full_like(self.labels, -1)
        self.inside[members] = _count_up(self.sizes).to(compact)
        self.touched = self.changes = 0
        self._lay_out(members)

    @staticmethod
    def of(members: Int[Tensor, "n"], sizes: Int[Tensor, "G"], num_slots: int) -> "Cells":
        """As they were saved: ``members`` cluster by cluster, in their order."""
        members, sizes = members.cpu().long(), sizes.cpu().clone()
        labels = torch.full((int(num_slots),), -1)
        labels[members] = torch.arange(len(sizes)).repeat_interleave(sizes)
        cells = Cells(labels, len(sizes))
        cells.inside[members] = _count_up(sizes).to(cells.inside.dtype)
        cells._lay_out(members)
        return cells

    @property
    def members(self) -> Int[Tensor, "n"]:
        """All of them, cluster by cluster; costs as much as there are."""
        return self.at(torch.arange(len(self.sizes)).repeat_interleave(self.sizes), self._every())

    @property
    def num_members(self) -> int:
        return int(self.sizes.sum())

    def state_dict(self) -> dict[str, Any]:
        """What ``of`` takes."""
        members = self.members.to(self.labels.dtype)
        return {"members": members, "sizes": self.sizes.clone(), "num_slots": len(self.labels)}

    @property
    def nbytes(self) -> int:
        """Of what is held for each item."""
        return self.labels.nbytes + self.inside.nbytes + self._array.nbytes

    def at(
        self, clusters: Int[Tensor, "*shape"], inside: Int[Tensor, "*shape"]
    ) -> Int[Tensor, "*shape"]:
        """The slot at a place within a cluster."""
        return self._array[self._starts[clusters] + inside].long()

    def move(self, slots: Int[Tensor, "M"], labels: Int[Tensor, "M"]) -> None:
        """Distinct slots go to these clusters; -1: to none. Who is there already stays."""
        self.changes += 1
        was = self.labels[slots].long()
        going = was != labels
        slots, labels, was = slots[going], labels[going], was[going]
        out, come = was >= 0, labels >= 0
        if bool(out.any()):
            self._take_out(slots[out], was[out])
        if bool(come.any()):
            self._put_in(slots[come], labels[come])

    def _take_out(self, slots: Int[Tensor, "r"], clusters: Int[Tensor, "r"]) -> None:
        """The last of each cluster take the places of those that leave."""
        holes = self.inside[slots].long()
        self.labels[slots], self.inside[slots] = -1, -1
        groups, counts = clusters.unique(return_counts=True)
        self.sizes[groups] -= counts
        last = self.sizes[groups].repeat_interleave(counts) + _count_up(counts)
        where = groups.repeat_interleave(counts)
        moving = self.at(where, last)
        stays = self.labels[moving] >= 0
        moving, where = moving[stays], where[stays]
        inner = holes < self.sizes[clusters]
        holes, clusters = holes[inner], clusters[inner]
        order = (clusters * len(self.labels) + holes).argsort()  # one for each that is moving
        self._write(moving, where, holes[order])

    def _put_in(self, slots: Int[Tensor, "a"], clusters: Int[Tensor, "a"]) -> None:
        """Behind the others of the cluster, in the order in which they are named."""
        order = clusters.argsort(stable=True)
        slots, clusters = slots[order], clusters[order]
        groups, counts = clusters.unique_consecutive(return_counts=True)
        before, wanted = self.sizes[groups], self.sizes[groups] + counts
        self._make_room(groups, wanted)
        self.sizes[groups] = wanted
        self._write(slots, clusters, before.repeat_interleave(counts) + _count_up(counts))

    def _write(
        self, slots: Int[Tensor, "M"], clusters: Int[Tensor, "M"], inside: Int[Tensor, "M"]
    ) -> None:
        self.labels[slots] = clusters.to(self.labels.dtype)
        self.inside[slots] = inside.to(self.inside.dtype)
        self._array[self._starts[clusters] + inside] = slots.to(self._array.dtype)
        self.touched += len(slots)

    def _make_room(self, groups: Int[Tensor, "g"], wanted: Int[Tensor, "g"]) -> None:
        """For so many members in some clusters; those that are short of it move to the end."""
        if self._end > IDLE * (self.num_members + len(self.sizes)):
            self._lay_out(self.members)
        full = wanted > self._room[groups]
        if bool(full.any()):
            self._move_to_the_end(groups[full], 2 * wanted[full])

    def _move_to_the_end(self, clusters: Int[Tensor, "f"], room: Int[Tensor, "f"]) -> None:
        held = self.sizes[clusters]
        which, inside = clusters.repeat_interleave(held), _count_up(held)
        slots, ends = self.at(which, inside), room.cumsum(0)
        self._room[clusters], self._starts[clusters] = room, self._end + ends - room
        self._end += int(ends[-1])
        if self._end > len(self._array):
            self._array = torch.cat([self._array, self._array.new_empty(self._end)])
        self._array[self._starts[which] + inside] = slots.to(self._array.dtype)
        self.touched += len(slots)

    def _lay_out(self, members: Int[Tensor, "n"]) -> None:
        """All anew, with some room in each cluster."""
        self._room = self.sizes + self.sizes // ROOM + ROOM
        ends = self._room.cumsum(0)
        self._starts = ends - self._room
        self._end = int(ends[-1]) if len(ends) else 0
        self._array = torch.zeros(self._end, dtype=self.labels.dtype)
        which = torch.arange(len(self.sizes)).repeat_interleave(self.sizes)
        self._array[self._starts[which] + self._every()] = members.to(self._array.dtype)
        self.touched += len(members)

    def _every(self) -> Int[Tensor, "n"]:
        return _count_up(self.sizes)


def _count_up(counts: Int[Tensor, "G"]) -> Int[Tensor, "n"]:
    """From 0 within each group."""
    ends = counts.cumsum(0)
    every = torch.arange(int(ends[-1]) if len(ends) else 0)
    return every - (ends - counts).repeat_interleave(counts)
