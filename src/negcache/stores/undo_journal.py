"""What rows of a file held before they were overwritten: a way back to the last checkpoints.

Each checkpoint begins a *generation*, a file of its own beside the rows. Before a row is written
for the first time in a generation, what it held is appended there; so the generations from the
newest down lead back to the start of any of them that is kept. The first keeps nothing: nobody goes
back to before the rows were there, unless a state was made of that.

A process may be killed at any moment: what it gave to the operating system stays. A record is whole
before its rows are touched, and one that is not whole is passed over. ``begin`` has what is
written so far brought to the disk; between checkpoints nothing is, so a machine that loses its
power may lose rows that no record brings back.
"""

import json
import os
import struct
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import torch

from negcache.errors import InputError
from negcache.shapes import Bool, Int, Tensor
from negcache.stores.row_file import RowFile

KEPT = 4
"""Generations whose start can be gone back to."""

RECORD = struct.Struct("<QI")
"""Rows of a record, and the checksum of what follows."""

NOTHING = -1
"""The generation before anything has been written."""

Reference = dict[str, str | int]
"""The start of a generation, as a checkpoint remembers it; true wherever the files are moved to."""


class UndoJournal:
    """The generations of one file of rows.

    Args:
        file: of the rows.
    """

    def __init__(self, file: RowFile) -> None:
        self.file, self.run, self.generation, self.handle = file, "", NOTHING, -1
        self.close = lambda: None
        self.saved = torch.zeros(0, dtype=torch.uint8)
        self.length, self.touched, self.leads_back = 0, False, False

    def start(self) -> None:
        """The rows begin anew: no way leads back to what they held."""
        for number in self._kept():
            self._path(number).unlink()
        self.run = uuid4().hex
        self._open(0)
        self.leads_back = False

    def begin(self) -> Reference:
        """Begin a generation; the start of this one, where nothing has been written since."""
        self.file.sync()
        if self.generation != NOTHING and self.touched:
            os.fsync(self.handle)
            self._open(self.generation + 1)
            for number in self._kept()[:-KEPT]:
                self._path(number).unlink()
        self.leads_back = True
        return {"file": self.file.path.name, "run": self.run, "generation": self.generation}

    def save(self, slots: Int[Tensor, "M"]) -> None:
        """Keep what these rows hold, where that is not done; they may be written then."""
        self.touched |= len(slots) > 0
        if not self.leads_back:
            return
        slots = slots[~self._has(slots)].unique()
        if not len(slots):
            return
        columns = self.file.read(slots)
        parts = [slots, *(columns[name] for name in self.file.columns)]
        payload = b"".join(each.contiguous().view(torch.uint8).numpy().tobytes() for each in parts)
        record = RECORD.pack(len(slots), zlib.crc32(payload)) + payload
        try:
            left = memoryview(record)
            while len(left):
                left = left[os.write(self.handle, left) :]
        except OSError as error:
            os.ftruncate(self.handle, self.length)
            raise self._full(self.generation, len(record), error) from error
        self.length += len(record)
        self._mark(slots)

    def roll_back(self, to: Reference) -> None:
        """Bring the rows to the start of a generation. Raises InputError where no way leads there.

        It may be interrupted, and done again.
        """
        wanted = int(to["generation"])
        if wanted == NOTHING:
            self.generation = NOTHING
            return
        for number in self.leading_to(to):
            for slots, columns in self.records(number):
                self.file.write(slots, columns)
            if number > wanted:
                self._path(number).unlink()
        self.run = str(to["run"])
        self.file.sync()
        self._open(wanted)

    def leading_to(self, to: Reference) -> list[int]:
        """Generations that lead to the start of one, in the order in which they are undone.

        Raises:
            InputError: no way leads there.
        """
        kept, wanted, runs = self._kept(), int(to["generation"]), self._runs()
        if runs != {to["run"]} or not kept[0] <= wanted <= kept[-1]:
            raise InputError(
                f"the file of rows that the state speaks of ({to['file']}, generation {wanted})",
                f"{self.file.path} with generations {kept}"
                + " of another run" * (runs != {to["run"]}),
                f"go on from one of the {KEPT} newest checkpoints, with the files beside the rows",
            )
        return [number for number in reversed(kept) if number >= wanted]

    def remove(self, run: str) -> None:
        """Remove the file of rows and all generations, where they are of this run."""
        if self._runs() != {run}:
            return
        self.file.path.unlink()
        for number in self._kept():
            self._path(number).unlink()

    def records(self, number: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Rows of a generation and what they held, as far as records are whole."""
        with self._path(number).open("rb") as journal:
            journal.readline()
            while len(head := journal.read(RECORD.size)) == RECORD.size:
                count, checksum = RECORD.unpack(head)
                widths = [each.stride for each in self.file.columns.values()]
                payload = journal.read(count * (8 + sum(widths)))
                if zlib.crc32(payload) != checksum:
                    return
                every = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
                slots, *parts = every.split([count * each for each in (8, *widths)])
                columns = {
                    name: part.clone().view(column.dtype).view(count, column.width)
                    for (name, column), part in zip(self.file.columns.items(), parts, strict=True)
                }
                yield slots.clone().view(torch.int64), columns

    def _open(self, number: int) -> None:
        """An empty journal, which the rows that are written from now on go to."""
        header = json.dumps({"run": self.run, "generation": number}).encode() + b"\n"
        part = self._path(number).with_suffix(".part")
        try:
            part.write_bytes(header)
        except OSError as error:
            raise self._full(number, len(header), error) from error
        os.replace(part, self._path(number))
        self.close()
        self.handle = os.open(self._path(number), os.O_WRONLY | os.O_APPEND)
        self.close = weakref.finalize(self, os.close, self.handle)
        self.generation, self.length = number, len(header)
        self.touched, self.leads_back = False, True
        self.saved = torch.zeros(-(-self.file.rows // 8), dtype=torch.uint8)

    def _full(self, number: int, size: int, error: OSError) -> InputError:
        """Rows and journals are as they were."""
        return InputError(
            f"room for {size} bytes at {self._path(number)}",
            str(error),
            "make room on the disk, then go on from the last checkpoint",
        )

    def _has(self, slots: Int[Tensor, "M"]) -> Bool[Tensor, "M"]:
        return (self.saved[slots // 8] >> (slots % 8)) & 1 > 0

    def _mark(self, slots: Int[Tensor, "M"]) -> None:
        """Distinct ones: their bits are added up by the byte."""
        bits = torch.ones_like(slots, dtype=torch.uint8) << (slots % 8)
        self.saved.index_add_(0, slots // 8, bits.to(torch.uint8))

    def _kept(self) -> list[int]:
        """Generations that have a file, ascending."""
        beside = self.file.path.parent.iterdir()
        names = (each.name.removeprefix(f"{self.file.path.name}.undo-") for each in beside)
        return sorted(int(name) for name in names if name.isdecimal())

    def _runs(self) -> set[str]:
        """That the generations are of: one, unless files of another run were put here."""
        runs = set[str]()
        for number in self._kept():
            with self._path(number).open("rb") as journal:
                runs.add(json.loads(journal.readline())["run"])
        return runs

    def _path(self, number: int) -> Path:
        return self.file.path.with_name(f"{self.file.path.name}.undo-{number}")
