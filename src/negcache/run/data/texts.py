"""Texts and their ids in a memory-mapped Arrow file."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes most of its functions at import, where a type checker sees none.)

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from negcache.ragged import check_rows
from negcache.run.atomic import atomic_write
from negcache.run.data.tables import QUERIES
from negcache.shapes import Int, Tensor

Places: TypeAlias = Int[Tensor, "_"] | np.ndarray | Sequence[int]
"""Rows of a table, int64 [M]."""


class TextTable:
    """(id, text) rows of an Arrow IPC file; text is read from disk when it is asked for."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @staticmethod
    def open(path: Path | str) -> "TextTable":
        """Map the file."""
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            return TextTable(reader.read_all())

    def __len__(self) -> int:
        return self.table.num_rows

    def texts(self, rows: Places) -> list[str]:
        """The texts of some rows."""
        return self._take("text", rows)

    def ids(self, rows: Places | None = None) -> list[str]:
        """The ids of some rows; None: of all."""
        return self.table["_id"].to_pylist() if rows is None else self._take("_id", rows)

    def find(self, ids: pa.Array | pa.ChunkedArray | list[str]) -> np.ndarray:
        """The row of each id, int64; -1 where the id is unknown."""
        wanted = pa.array(ids, pa.string()) if isinstance(ids, list) else ids
        rows = pc.index_in(wanted, value_set=self.table["_id"])
        return pc.fill_null(rows, -1).to_numpy(zero_copy_only=False).astype(np.int64)

    def batches(self) -> Iterator[list[str]]:
        """All texts in order, a block at a time."""
        for block in self.table["text"].iterchunks():
            yield block.to_pylist()

    def repeated(self) -> list[str]:
        """The ids that stand in more than one row."""
        counts = pc.value_counts(self.table["_id"])
        twice = pc.greater(counts.field("counts"), 1)
        return counts.field("values").filter(twice).to_pylist()

    def empty(self) -> np.ndarray:
        """Bool [rows]: whether the text holds nothing but white space."""
        blank = pc.equal(pc.utf8_trim_whitespace(self.table["text"]), "")
        return blank.to_numpy(zero_copy_only=False)

    def _take(self, column: str, rows: Places) -> list[str]:
        places = np.asarray(rows, np.int64)
        check_rows(places, len(self))
        values = self.table[column]
        return [values[place].as_py() for place in places.tolist()]


def write_texts(path: Path, batches: Iterable[pa.RecordBatch]) -> TextTable:
    """Stream record batches of `CORPUS` or `QUERIES` to disk, the title put before the text."""
    with (
        atomic_write(path) as part,
        pa.OSFile(str(part), "wb") as sink,
        pa.ipc.new_file(sink, QUERIES) as writer,
    ):
        for batch in batches:
            writer.write_batch(_with_title(batch))
    return TextTable.open(path)


def _with_title(batch: pa.RecordBatch) -> pa.RecordBatch:
    text = pc.fill_null(batch["text"], "")
    if "title" in batch.schema.names:
        title = pc.fill_null(batch["title"], "")
        text = pc.utf8_trim_whitespace(pc.binary_join_element_wise(title, text, " "))
    return pa.RecordBatch.from_arrays([batch["_id"], text], schema=QUERIES)
