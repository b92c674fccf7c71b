"""Texts and their ids in a memory-mapped Arrow file."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes most of its functions at import, where a type checker sees none.)

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from negcache.ragged import check_rows
from negcache.run.atomic import atomic_write
from negcache.run.data.arrow_rows import ChunkedRows, regrouped
from negcache.run.data.id_index import IdIndex
from negcache.run.data.tables import BATCH_ROWS, QUERIES
from negcache.shapes import Int, Tensor

Places: TypeAlias = Int[Tensor, "_"] | np.ndarray | Sequence[int]
"""Rows of a table, int64 [M]."""

PART_BLOCKS = 8
"""Blocks of `BATCH_ROWS` rows in a part, a file: what an interruption may cost."""


class TextTable:
    """(id, text) rows of Arrow files; a text is read from disk when it is asked for.

    Args:
        table: mapped.
        index: from ids to rows.
    """

    def __init__(self, table: pa.Table, index: IdIndex) -> None:
        self.table, self.index = table, index
        self._rows = {name: ChunkedRows(table[name]) for name in table.column_names}

    @staticmethod
    def open(path: Path | str) -> "TextTable":
        """Map the files of a folder."""
        table = _mapped(Path(path))
        return TextTable(table, IdIndex.open(Path(path), ChunkedRows(table["_id"])))

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
        return self.index.find(pa.array(ids, pa.string()) if isinstance(ids, list) else ids)

    def batches(self, first: int = 0) -> Iterator[list[str]]:
        """The texts from the row ``first`` on, a block at a time."""
        for block in self._rows["text"].after(first):
            yield block.to_pylist()

    def repeated(self) -> pa.Array:
        """The ids that stand in more than one row, by their first row."""
        return self.index.repeated()

    def num_empty(self) -> int:
        """How many texts hold nothing but white space."""
        blank = (
            pc.sum(pc.equal(pc.utf8_trim_whitespace(block), "")).as_py()
            for block in self.table["text"].iterchunks()
        )
        return sum(count or 0 for count in blank)

    def _take(self, column: str, rows: Places) -> list[str]:
        places = np.asarray(rows, np.int64)
        check_rows(places, len(self))
        return self._rows[column].take(places).to_pylist()


def write_texts(path: Path, batches: Iterable[pa.RecordBatch]) -> TextTable:
    """Stream record batches of `CORPUS` or `QUERIES` to disk, the title put before the text.

    In parts of `PART_BLOCKS` blocks, each whole or not at all: where some are there, as an
    interrupted call left them, the rows they hold are passed over, and the others follow. In the
    end the files are those of a call that was never interrupted.

    Args:
        path: a folder of these rows alone.
        batches: all rows, from the first on.
    """
    path.mkdir(parents=True, exist_ok=True)
    done = len(_parts(path))
    blocks = islice(regrouped(batches, BATCH_ROWS), done * PART_BLOCKS, None)
    for number, first in enumerate(blocks, start=done):
        part = chain([first], islice(blocks, PART_BLOCKS - 1))
        _write_part(path / f"{number:06}.arrow", part)
    IdIndex.build(path, ChunkedRows(_mapped(path)["_id"]))
    return TextTable.open(path)


def _write_part(path: Path, blocks: Iterable[pa.RecordBatch]) -> None:
    with (
        atomic_write(path) as part,
        pa.OSFile(str(part), "wb") as sink,
        pa.ipc.new_file(sink, QUERIES) as writer,
    ):
        for block in blocks:
            writer.write_batch(_with_title(block))


def _parts(path: Path) -> list[Path]:
    return sorted(path.glob("*.arrow"))


def _mapped(path: Path) -> pa.Table:
    tables = [QUERIES.empty_table()]
    for part in _parts(path):
        with pa.ipc.open_file(pa.memory_map(str(part))) as reader:
            tables.append(reader.read_all())
    return pa.concat_tables(tables)


def _with_title(batch: pa.RecordBatch) -> pa.RecordBatch:
    text = pc.fill_null(batch["text"], "")
    if "title" in batch.schema.names:
        title = pc.fill_null(batch["title"], "")
        text = pc.utf8_trim_whitespace(pc.binary_join_element_wise(title, text, " "))
    return pa.RecordBatch.from_arrays([batch["_id"], text], schema=QUERIES)
