"""The table behind a low-rank cache: in ordinary memory, or in a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from negcache.errors import InputError
from negcache.ops.nystrom import with_ones
from negcache.ops.quantized import quantize
from negcache.ops.shards import Shard, part_rows
from negcache.shapes import Float, Int, Tensor
from negcache.stores.row_file import Column, RowFile, file_of
from negcache.validation import check_finite

BLOCK = 1 << 14
"""Rows that are moved at a time: a bound on memory."""


class CoordinateTable:
    """Coordinates [S, C] without their column of ones, which is put on when they are read.

    A file is no checkpoint: what an earlier run left in it is lost.

    Args:
        shard: which rows are here, S of them.
        columns: the most that there can be.
        dtype: of the stored numbers; int8: with a scale for each row, so that an entry is off by
            ``max |row| / 254`` at most.
        device: of what is read, and of all else that is known of a row.
        path: of the file, made if it is not there, emptied if it is; where processes share the rows
            each has one of its own, whose name says which; None: ordinary memory.

    Attributes:
        rank: columns in use.
        exact: dtype of what is read, float32 at least.
        valid: bool [S], rows that have coordinates.
        stored: [S, C], the numbers.
        scales: float32 [S, 1] of int8 ones; else [S, 0].
        removed: bool [S], rows of items that are no negatives any more.
        kept: float64 [parts, 2], for each part of the rows: the sum of what projection alone left
            of them (cosines), and of how many.

    Raises:
        InputError: another file is there, or the disk has no room.
    """

    on_host = ("stored", "scales", "file")

    def __init__(
        self,
        shard: Shard,
        columns: int,
        dtype: torch.dtype,
        device: torch.device,
        path: Path | str | None,
    ) -> None:
        self.shard, self.device, self.rank = shard, device, columns
        self.exact = torch.promote_types(dtype, torch.float32)
        self.valid = torch.zeros(shard.size, dtype=torch.bool, device=device)
        self.removed = torch.zeros_like(self.valid)
        self.kept = torch.zeros(len(shard.parts), 2, dtype=torch.float64, device=device)
        kept = {"coordinates": Column(dtype, columns)}
        if dtype == torch.int8:
            kept["scales"] = Column(torch.float32, 1)
        self.file = None
        if path is not None:
            self.file = RowFile(file_of(Path(path), shard), shard.size, kept, anew=True)
        self.stored = self._kept("coordinates", Column(dtype, columns))
        self.scales = self._kept("scales", kept.get("scales", Column(torch.float32, 0)))

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M C"]:
        slots = slots.cpu()
        return self._read(self.stored.index_select(0, slots), self.scales.index_select(0, slots))

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c C"]]]:
        if self.file is None:
            for first in range(0, len(self.stored), size):
                some = slice(first, first + size)
                yield first, self._read(self.stored[some], self.scales[some])
            return
        for first, block in self.file.chunks(size, *self.file.columns):
            yield first, self._read(*block)

    def write(self, slots: Int[Tensor, "M"], coordinates: Float[Tensor, "M C"]) -> None:
        numbers, scales = self._numbers(coordinates, slots)
        slots = slots.cpu()
        self.stored[:, : self.rank].index_copy_(0, slots, numbers)
        self.scales.index_copy_(0, slots, scales)
        self.valid[slots.to(self.device)] = True

    def note(self, slots: Int[Tensor, "M"], cosines: Float[Tensor, "M"]) -> None:
        """What projection alone left of these rows."""
        left = torch.stack([cosines.double(), torch.ones_like(cosines.double())], dim=1)
        self.kept.index_add_(0, slots // part_rows(self.shard.total), left)

    def move(self, move: Float[Tensor, "C K"]) -> None:
        """Every row z becomes ``z @ move``, in place."""
        for first, block in self.chunks(BLOCK):
            some = slice(first, first + len(block))
            ids = self.shard.ids(torch.arange(first, first + len(block)))
            numbers, self.scales[some] = self._numbers(block @ move, ids)
            self.stored[some, : numbers.shape[1]] = numbers
        self.rank = move.shape[1] - 1

    def state_dict(self) -> dict[str, Any]:
        """The rows here, part by part: states of several processes add up to that of one."""
        names = ("stored", "scales", "valid", "removed")
        parts = {
            name: {each: getattr(self, each)[rows] for each in names} | {"kept": kept}
            for (name, rows), kept in zip(self.shard.parts.items(), self.kept, strict=True)
        }
        sizes = {"rows": self.shard.total, "columns": self.stored.shape[1], "rank": self.rank}
        return sizes | parts

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take what is here of saved parts; rows beyond those that were saved are not valid.

        Raises:
            InputError: some of the rows that were saved are not in the state.
        """
        valid, removed = torch.zeros_like(self.valid), torch.zeros_like(self.removed)
        kept, found = torch.zeros_like(self.kept), 0  # the state may be this table's own
        for name, part in saved.items():
            whole, rows = Shard.whole(saved["rows"]).rows_of(name), self.shard.rows_of(name)
            if not rows:
                continue
            if part["scales"].shape[1] != self.scales.shape[1]:
                kind = "int8 coordinates" if self.scales.shape[1] else "coordinates without scales"
                raise InputError(f"a state of {kind}", "another", "build the store with its dtype")
            here = slice(rows.start - self.shard.first, rows.stop - self.shard.first)
            there = slice(rows.start - whole.start, rows.stop - whole.start)
            self.stored[here, : part["stored"].shape[1]] = part["stored"][there]
            self.scales[here] = part["scales"][there]
            valid[here], removed[here] = part["valid"][there], part["removed"][there]
            if rows.start == whole.start:  # one process alone counts them
                kept[here.start // part_rows(self.shard.total)] += part["kept"].to(kept.device)
            found += len(rows)
        if found != max(0, min(self.shard.size, saved["rows"] - self.shard.first)):
            raise InputError(
                f"{self.shard.name}, which this process holds",
                f"a state with {found} of them",
                "load what this very process saved, or what all of them saved together",
            )
        for own, new in ((self.valid, valid), (self.removed, removed), (self.kept, kept)):
            own.copy_(new)
        self.rank = int(saved["rank"])

    def _kept(self, name: str, column: Column) -> Tensor:
        """Zeros for each row, of the file where there is one."""
        if self.file is None or not column.width:
            return torch.zeros(self.shard.size, column.width, dtype=column.dtype)
        return self.file.mapped(name)

    def _numbers(self, rows: Float[Tensor, "M C"], ids: Int[Tensor, "M"]) -> tuple[Tensor, Tensor]:
        """What is stored of rows, and their scales. Raises InputError: some are not finite."""
        if self.stored.dtype != torch.int8:
            return check_finite(rows[:, :-1].to(self.stored), ids), self.scales[: len(rows)]
        codes, scales = quantize(check_finite(rows[:, :-1].float(), ids).cpu())
        return codes, scales[:, None]

    def _read(self, block: Tensor, scales: Tensor | None = None) -> Tensor:
        found = block[:, : self.rank].to(self.device, self.exact)
        if scales is not None and scales.shape[1]:
            found = found * scales.to(self.device)
        return with_ones(found)
