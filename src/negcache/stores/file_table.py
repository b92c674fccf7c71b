"""Rows in a file, and the step that each was last written in: what ``RowTable`` is in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from negcache.errors import InputError
from negcache.ops.quantized import QuantizedRows, quantize
from negcache.ops.shards import Shard
from negcache.shapes import Float, Int, Tensor
from negcache.stores.resharding import (
    Former,
    Source,
    former_of,
    references_of,
    remove_files,
)
from negcache.stores.row_file import Column, RowFile, file_of
from negcache.stores.row_memory import QuantizedChunks
from negcache.stores.table import NEVER, check_shape
from negcache.stores.undo_journal import KEPT, NOTHING, UndoJournal
from negcache.validation import check_finite


class FileRows:
    """Rows of a file, as they are or as int8 numbers; see ``FloatRows`` and ``Int8Rows``.

    Args:
        file: with the columns of ``FileRows.columns``.
    """

    def __init__(self, file: RowFile) -> None:
        self.file = file
        self.has_codes = "codes" in file.columns

    @staticmethod
    def columns(dim: int, dtype: torch.dtype) -> dict[str, Column]:
        if dtype != torch.int8:
            return {"embeddings": Column(dtype, dim)}
        return {"codes": Column(dtype, dim), "scales": Column(torch.float32, 1)}

    @property
    def quantized(self) -> QuantizedChunks | None:
        return self._quantized if self.has_codes else None

    @property
    def stored(self) -> Tensor:
        """[S, D]; mapped: look at some of them alone."""
        return self.file.mapped("codes" if self.has_codes else "embeddings")

    def _quantized(self, size: int) -> Iterator[tuple[int, QuantizedRows]]:
        """Blocks whose memory is used again: each is done with before the next is asked for."""
        for first, (codes, scales) in self.file.chunks(size, "codes", "scales"):
            yield first, QuantizedRows(codes, scales.squeeze(1))

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        if self.has_codes:
            return ((first, block.rows()) for first, block in self._quantized(size))
        blocks = self.file.chunks(size, "embeddings")
        return ((first, rows.clone()) for first, (rows,) in blocks)  # who asks may keep them

    def read(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        found = self.file.read(slots, *(("codes", "scales") if self.has_codes else ("embeddings",)))
        if self.has_codes:
            return QuantizedRows(found["codes"], found["scales"].squeeze(1)).rows()
        return found["embeddings"]

    def as_columns(self, slots: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> dict[str, Tensor]:
        """Columns of rows that are to be written there."""
        if not self.has_codes:
            return {"embeddings": rows}
        codes, scales = quantize(check_finite(rows.float(), slots))
        return {"codes": codes, "scales": scales[:, None]}


class FileTable:
    """Rows in a file that outlives the process; its state is a reference to them.

    Rows are those of the state that is loaded, whatever was written after it was saved. Where none
    is loaded the first write begins anew. A state of another number of processes is copied from
    their files, which are removed once no state that can be gone back to needs them. What is held
    in memory is a byte of each row, and an eighth of one.

    Args:
        shard: which rows are here, S of them.
        dim: D.
        dtype: of the rows; int8: with a scale each.
        path: of the file; where processes share the rows each has one, whose name says which.

    Raises:
        InputError: another file is there, or there is no room.
    """

    on_host = ("rows", "file", "journal", "written")

    def __init__(self, shard: Shard, dim: int, dtype: torch.dtype, path: Path | str) -> None:
        self.shard, self.dim, self.path = shard, dim, Path(path)
        self.file = RowFile(file_of(self.path, shard), shard.size, self.columns(dim, dtype))
        self.rows, self.journal = FileRows(self.file), UndoJournal(self.file)
        self.valid = torch.zeros(shard.size, dtype=torch.bool)
        self.has_begun, self.former = False, Former()

    @staticmethod
    def columns(dim: int, dtype: torch.dtype) -> dict[str, Column]:
        """What the file has of each row."""
        return FileRows.columns(dim, dtype) | {"written": Column(torch.int32, 1)}

    @staticmethod
    def check_device(device: torch.device | str) -> None:
        """Raises InputError: rows in a file are read on the host alone."""
        if torch.device(device).type != "cpu":
            raise InputError(
                "rows in a file on the host",
                f"{device}",
                "leave the loss on the CPU, or keep the rows in memory: no path=",
            )

    @property
    def written(self) -> Int[Tensor, "S"]:
        """int32 [S], -1 for rows that were never written, or were let go.

        Mapped: look at some of it alone.
        """
        if not self.has_begun:
            return torch.full((1,), NEVER, dtype=torch.int32).expand(self.shard.size)
        return self.file.mapped("written").squeeze(1)

    @property
    def embeddings(self) -> Tensor:
        """The numbers that the rows are kept as, [S, D]; mapped: look at some of them alone."""
        return self.rows.stored

    def write(self, slots: Int[Tensor, "M"], rows: Float[Tensor, "M D"], step: int) -> None:
        self._begin()
        columns = self.rows.as_columns(slots, rows.detach())
        columns["written"] = torch.full((len(slots), 1), step)
        self.journal.save(slots)
        self.file.write(slots, columns)
        self.valid[slots] = True

    def let_go(self, slots: Int[Tensor, "M"]) -> None:
        """These rows are valid no more, until they are written."""
        slots = slots[self.valid[slots]]
        self.journal.save(slots)
        self.file.write(slots, {"written": torch.full((len(slots), 1), NEVER)})
        self.valid[slots] = False

    def state_dict(self) -> dict[str, Any]:
        """Where the rows are and from when; what is written later can be undone up to here."""
        reference: dict[str, Any] = {**self.journal.begin()}
        if self.former and reference["generation"] >= KEPT:  # so many states are in files of today
            remove_files(self.path, self.former, self.shard, self.file.columns)
            self.former = {}
        if self.former:
            reference["former"] = self.former
        return {"table": {"rows": self.shard.total, "dim": self.dim, self.shard.name: reference}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo what was written since the state was saved, by any number of processes."""
        saved = state["table"]
        check_shape(saved, self.shard.total, self.dim)
        references = references_of(saved, self.shard, self.path)
        if (own := references.get(self.shard.name)) is not None:
            self.journal.roll_back(own)
            self.former = dict(own.get("former", {}))
            self.has_begun = own["generation"] != NOTHING
        else:
            self._gather(references)
        if not self.has_begun:
            self.valid.fill_(False)
            return
        for first, (written,) in self.file.chunks(1 << 18, "written"):
            self.valid[first : first + len(written)] = written.squeeze(1) != NEVER

    def _gather(self, references: dict[str, dict[str, Any]]) -> None:
        """Copy the rows from the files of other processes; what the file here held is lost."""
        begun = {name: told for name, told in references.items() if told["generation"] != NOTHING}
        settings = self.shard, self.file.columns
        sources = [Source(self.path, *one, *settings) for one in begun.items()]
        self.former, self.has_begun = former_of(references), False
        if not sources:
            return self.journal.roll_back(next(iter(references.values())))
        self._begin()
        self.has_begun = False  # until all are here
        self.valid.fill_(False)
        for source in sources:
            source.copy(self.file)
        self.file.sync()
        self.has_begun = True

    def _begin(self) -> None:
        """What an earlier run left in the file is lost, unless its state has been loaded."""
        if self.has_begun:
            return
        self.journal.start()
        step = 1 << 18
        for first in range(0, self.shard.size, step):
            slots = torch.arange(first, min(first + step, self.shard.size))
            self.file.write(slots, {"written": torch.full((len(slots), 1), NEVER)})
        self.has_begun = True
