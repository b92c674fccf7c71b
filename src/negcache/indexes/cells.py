"""Cells of items that lie close together, as one table; and what keeps such a table up to date."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from negcache.errors import InputError
from negcache.functional.lloyd import distance, lloyd, nearest
from negcache.protocols import Change, Coordinates, Listener
from negcache.score import at_least_float32
from negcache.shapes import Float, Int, Tensor

ROWS = 1 << 14
"""Rows of coordinates looked at at a time."""


@dataclass(frozen=True)
class HeldCells:
    """Bytes of tables of cells.

    Args:
        on_device: on the device of the coordinates: centres, offsets, radii.
        in_memory: in ordinary memory: what there is of each item.
    """

    on_device: int
    in_memory: int


@dataclass(frozen=True)
class CellTable:
    """A partition of slots into cells: the members of a cell stand in a row.

    Build it with ``from_labels``. A cell may be empty. Members and ranks, a number for each item,
    are in ordinary memory whatever the device of the centres; ``slots`` and ``places`` look there.

    Args:
        centres: representative of each cell: a mean, or the coordinates of one of its items.
        offsets: [G + 1]; cell ``g`` owns ``members[offsets[g]:offsets[g + 1]]``.
        members: slots, cell by cell.
        ranks: where each slot stands among the members; -1: in no cell.
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
    ) -> "CellTable":
        """The table of slots that are in cell ``labels[slot]``; -1: in none."""
        labels = labels.cpu()
        narrow = torch.int16 if len(centres) < 1 << 15 else torch.int64  # sorts six times faster
        order = labels.to(narrow).argsort(stable=True)
        counts = torch.bincount(labels + 1, minlength=len(centres) + 1)
        members = order[int(counts[0]) :]
        ranks = torch.full_like(labels, -1)
        ranks[members] = torch.arange(len(members))
        offsets = torch.cat([counts.new_zeros(1), counts[1:].cumsum(0)])
        return CellTable(centres, offsets.to(centres.device), members, ranks, radius)

    @staticmethod
    def empty() -> "CellTable":
        """No cells, of no slots."""
        none = torch.empty(0)
        return CellTable.from_labels(none.long(), none.view(0, 0), none)

    def slots(self, places: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The members at these places, on the device of these."""
        return self.members[places.cpu()].to(places.device)

    def places(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The ranks of these slots, on the device of these; -1: in no cell."""
        return self.ranks[slots.cpu()].to(slots.device)

    def places_or_none(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The same, where -1 among the slots stands for none and has the place -1."""
        return self.places(slots.clamp_min(0)).where(slots >= 0, -1)

    @property
    def num_cells(self) -> int:
        return len(self.centres)

    @property
    def sizes(self) -> Int[Tensor, "G"]:
        """Members of each cell."""
        return self.offsets.diff()

    @property
    def labels(self) -> Int[Tensor, "S"]:
        """The cell of each slot, in ordinary memory; -1: in none."""
        cells = torch.searchsorted(self.offsets.cpu(), self.ranks, right=True) - 1
        return cells.where(self.ranks >= 0, -1)

    @property
    def held(self) -> HeldCells:
        return held_by([self])


def held_by(tables: Iterable[CellTable]) -> HeldCells:
    """What tables hold; members that several of them share count once."""
    tables = list(tables)
    on_device = (t.nbytes for each in tables for t in (each.centres, each.offsets, each.radius))
    in_memory = {id(t): t.nbytes for each in tables for t in (each.members, each.ranks)}
    return HeldCells(sum(on_device), sum(in_memory.values()))


@runtime_checkable
class CellIndex(Listener, Protocol):
    """Keeps a table of cells over the coordinates of a cache, to which it is attached."""

    @property
    def table(self) -> CellTable:
        """The cells as they are since ``follow`` was last called; empty before."""
        ...

    def follow(self, cache: Coordinates) -> None:
        """Build the cells, or move with what the cache has told; cheap when nothing has changed.

        Raises:
            InputError: the cache holds no item, or coordinates are not finite.
        """
        ...


class KMeansCells:
    """Cells by k-means over a sample; every item goes to the nearest centre.

    An item that moves goes to the cell that is then nearest, and the centres stay: old centres
    cost efficiency alone. Once as many items have moved as there are, or all coordinates have been
    replaced, everything is built anew.

    Args:
        num_cells: at most so many; None: about 4 sqrt(N).
        sample: items that the centres are found from; None: 32 for each cell.
        iterations: of Lloyd's algorithm.
        seed: of the samples.
    """

    def __init__(
        self,
        num_cells: int | None = None,
        *,
        sample: int | None = None,
        iterations: int = 10,
        seed: int = 0,
    ) -> None:
        if any(count is not None and count < 1 for count in (num_cells, sample)) or iterations < 0:
            raise InputError(
                "num_cells and sample of 1 or more, iterations of 0 or more",
                f"num_cells {num_cells}, sample {sample}, iterations {iterations}",
                "leave them out: the defaults suit most corpora",
            )
        self.num_cells, self.sample, self.iterations = num_cells, sample, iterations
        self.generator = torch.Generator().manual_seed(seed)
        self.forget()

    def forget(self) -> None:
        """The coordinates have been replaced as a whole: the next ``follow`` builds anew."""
        self.labels: Tensor | None = None
        self.centres, self.radius = torch.empty(0, 0), torch.empty(0)
        self.moved, self._table, self._loaded = 0, None, False

    @property
    def table(self) -> CellTable:
        if self._table is None:
            if self.labels is None:
                return CellTable.empty()
            self._table = CellTable.from_labels(self.labels, self.centres, self.radius)
        return self._table

    @torch.no_grad()
    def follow(self, cache: Coordinates) -> None:
        grown = self.labels is not None and len(self.labels) != cache.num_rows
        if self.labels is None or grown or self.moved >= cache.num_rows:
            self._build(cache)
        elif self._loaded:
            self._bring_to(cache.valid.device)

    @torch.no_grad()
    def on_change(self, change: Change) -> None:
        """Items have moved, come or gone: each goes to the nearest cell, or to none."""
        if self.labels is None:
            return
        if self._loaded:
            self._bring_to(change.new.device)
        new = _finite(change.new, change.is_valid).to(self.centres.dtype)
        cells, away = nearest(new, self.centres)
        here = change.is_valid
        self.radius = self.radius.scatter_reduce(0, cells[here], away[here], "amax")
        self.labels = self.labels.clone()
        self.labels[change.slots.cpu()] = cells.where(here, -1).cpu()
        self.moved, self._table = self.moved + len(change.slots), None
        if not bool(here.all()) and not bool((self.labels >= 0).any()):
            self.forget()  # nobody is left

    def state_dict(self) -> dict[str, Any]:
        names = ("labels", "centres", "radius", "moved")
        own = {name: getattr(self, name) for name in names} | {"settings": self._settings}
        return own | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cells made by other settings are forgotten: the next ``follow`` builds anew."""
        self.forget()
        if state.get("settings") != self._settings:
            return
        self.generator.set_state(state["generator"].cpu())
        self.moved = int(state["moved"])
        if state["labels"] is not None:
            self.labels, self.centres = state["labels"].clone().cpu(), state["centres"].clone()
            self.radius, self._loaded = state["radius"].clone(), True

    @property
    def _settings(self) -> dict[str, Any]:
        names = ("num_cells", "sample", "iterations")
        return {name: getattr(self, name) for name in names}

    def _bring_to(self, device: torch.device) -> None:
        """From a state of whatever device, to that of the coordinates."""
        self.centres, self.radius = self.centres.to(device), self.radius.to(device)
        self._loaded, self._table = False, None

    def _build(self, cache: Coordinates) -> None:
        """Find centres from a sample, give every item to the nearest, centre each cell on its own.

        A cell that nobody is in is dropped.
        """
        self.forget()
        held = cache.valid.nonzero().squeeze(1)
        if not len(held):
            raise InputError(
                "a cache that holds items", "one without any", "fill it: SoftmaxLoss.fill_cache()"
            )
        wanted = self.num_cells or max(1, round(4 * len(held) ** 0.5))
        shuffled = torch.randperm(len(held), generator=self.generator).to(held.device)
        chosen = held[shuffled[: max(wanted, self.sample or 32 * wanted)]].sort().values
        points = _finite(cache.coordinates(chosen), cache.valid[chosen])
        centres = lloyd(points, min(wanted, len(chosen)), self.iterations, self.generator)
        labels, means, counts = _assign(cache, centres)
        kept = counts > 0
        renumbered = (kept.cumsum(0) - 1).where(kept, -1).cpu()
        labels = labels.where(labels < 0, renumbered[labels])
        self.labels, self.centres = labels, means[kept]
        self.radius = _radii(cache, labels, self.centres)


def _assign(
    cache: Coordinates, centres: Float[Tensor, "G C"]
) -> tuple[Int[Tensor, "S"], Float[Tensor, "G C"], Int[Tensor, "G"]]:
    """The nearest centre of every valid row, -1 for the others; mean and size of each cell."""
    valid = cache.valid
    labels, sums = torch.full(valid.shape, -1), torch.zeros_like(centres)
    for first, block in cache.coordinate_chunks(ROWS):
        here = valid[first : first + len(block)]
        rows = _finite(block, here)[here].to(centres.dtype)
        cells, _ = nearest(rows, centres)
        labels[first : first + len(block)][here.cpu()] = cells.cpu()
        sums.index_add_(0, cells, rows)
    counts = torch.bincount(labels + 1, minlength=len(centres) + 1)[1:].to(centres.device)
    return labels, sums / counts.clamp_min(1)[:, None], counts


def _radii(
    cache: Coordinates, labels: Int[Tensor, "S"], centres: Float[Tensor, "G C"]
) -> Float[Tensor, "G"]:
    """The distance of each cell's farthest member from its centre."""
    radius = centres.new_zeros(len(centres))
    for first, block in cache.coordinate_chunks(ROWS):
        cells = labels[first : first + len(block)].to(block.device)
        here = cells >= 0
        away = distance(block[here].to(centres.dtype), centres, cells[here])
        radius.scatter_reduce_(0, cells[here], away, "amax")
    return radius


def _finite(rows: Float[Tensor, "n C"], valid: Tensor) -> Float[Tensor, "n C"]:
    """The rows, float32 at least; the valid ones checked."""
    rows = at_least_float32(rows)
    if not bool(rows[valid].isfinite().all()):
        raise InputError(
            "finite coordinates", "inf or nan among them", "look for a diverged item tower"
        )
    return rows
