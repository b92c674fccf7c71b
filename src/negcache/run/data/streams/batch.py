"""What a batch of a stream holds, and how it is made of the columns of a table."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes most of its functions at import, where a type checker sees none.)

from collections.abc import Container
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyarrow import types

from negcache.errors import InputError
from negcache.run.data.streams.ids import (
    Ids,
    Where,
    check_id_type,
    hash_ids,
    is_text,
    item_ids,
)
from negcache.run.data.text_hashes import hash_texts
from negcache.shapes import Bool, Int, Tensor


@dataclass(frozen=True)
class StreamColumns:
    """How the columns of a stream are called.

    Args:
        query: text of the query; None: a stream of items without queries.
        item: id of the item, whole numbers of 0 or more, or strings.
        text: of the item; None: its features say what it is.
        title: put before the text, where there is such a column.
        features: columns of numbers, or of lists of numbers that are equally long in all rows.
        query_id: whole numbers of 0 or more, or strings, by which pairs of one query are known,
            where there is such a column; without it equal texts are one query.
    """

    query: str | None = "query"
    item: str = "item"
    text: str | None = "text"
    title: str = "title"
    features: tuple[str, ...] = ()
    query_id: str = "query_id"

    @property
    def texts(self) -> list[str]:
        """Columns of text that there must be."""
        return [name for name in (self.query, self.text) if name is not None]

    @property
    def needed(self) -> list[str]:
        """The columns that there must be."""
        return [self.item, *self.texts, *self.features]

    @property
    def optional(self) -> list[str]:
        """The title, unless there is no text to put it before; ids of queries."""
        title = [] if self.text is None else [self.title]
        return title if self.query is None else [*title, self.query_id]

    def query_key(self, names: Container[str]) -> str | None:
        """The column that says which pairs are of one query; None: items without queries."""
        return self.query_id if self.query is not None and self.query_id in names else self.query

    def check(self, schema: pa.Schema, what: str) -> None:
        """Refuse columns of types that cannot be read so."""
        check_id_type(schema.field(self.item).type, f"column {self.item} of {what}")
        told = [] if self.text is None or self.title not in schema.names else [self.title]
        if self.query is not None and self.query_id in schema.names:
            check_id_type(schema.field(self.query_id).type, f"column {self.query_id} of {what}")
        for name in self.texts + told:
            if not is_text(schema.field(name).type):
                raise _wrong_type("strings", name, schema, what)
        for name in self.features:
            if not _is_number(_element(schema.field(name).type)):
                raise _wrong_type("numbers or lists of numbers", name, schema, what)


PAIRS = StreamColumns()
"""A query, the id and the text of an item that answers it."""

ITEMS = StreamColumns(query=None, item="_id")
"""Items without queries, named as in the ``corpus`` file of a BEIR folder."""


@dataclass(frozen=True)
class Identities:
    """Who the items of a batch are, for `TextsById`.

    Args:
        ids: of the items.
        texts: uint64 [n]; a hash of each text, 0 without texts.
        places: int64 [n, 2]; the row group of each row in the table, and its number there.
    """

    ids: Ids
    texts: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class StreamBatch:
    """The rows of a batch that this process has.

    Args:
        number: of the batch.
        item_ids: int64; strings are hashed.
        queries: None in a stream of items.
        texts: title and text; None where items have features alone.
        features: by column; of numbers, or rows of numbers.
        identities: for `TextsById`.
        query_ids: int64; strings, and texts where there is no column of ids, are hashed. None in a
            stream of items.
    """

    number: int
    item_ids: Int[Tensor, "B"]
    queries: list[str] | None
    texts: list[str] | None
    features: dict[str, Tensor]
    identities: Identities
    query_ids: Int[Tensor, "B"] | None

    def __len__(self) -> int:
        return len(self.item_ids)

    def only(self, kept: Bool[Tensor, "B"]) -> "StreamBatch":
        """The rows of a mask; who the items are is still told of all."""
        return replace(
            self,
            item_ids=self.item_ids[kept],
            queries=_some(self.queries, kept),
            texts=_some(self.texts, kept),
            features={name: column[kept] for name, column in self.features.items()},
            query_ids=None if self.query_ids is None else self.query_ids[kept],
        )


def _some(texts: list[str] | None, kept: Tensor) -> list[str] | None:
    return None if texts is None else [texts[row] for row in kept.nonzero().squeeze(1).tolist()]


def make_batch(
    number: int, table: pa.Table, places: np.ndarray, columns: StreamColumns, where: Where
) -> StreamBatch:
    """Rows of a table as a batch; null texts are empty ones."""
    ids = item_ids(table[columns.item], where)
    texts = None if columns.text is None else _texts(table, columns.text, columns.title)
    hashes = np.zeros(len(table), np.uint64) if texts is None else hash_texts(texts)
    asked = query_ids(table, columns, where)
    return StreamBatch(
        number,
        torch.from_numpy(ids.ids),
        None if columns.query is None else _strings(table[columns.query]).to_pylist(),
        texts,
        {name: _numbers(name, table[name], where) for name in columns.features},
        Identities(ids, hashes, places),
        None if asked is None else torch.from_numpy(asked),
    )


def query_ids(table: pa.Table, columns: StreamColumns, where: Where) -> np.ndarray | None:
    """Which query each row asks, int64 [n]; None: items without queries.

    Two queries whose hashes are equal count as one: no more than that each is spared what answers
    the other.
    """
    key = columns.query_key(table.column_names)
    if key is None:
        return None
    if key == columns.query:
        return hash_ids(_strings(table[key]).to_pylist()).ids
    return item_ids(table[key], where).ids


def _texts(table: pa.Table, text: str, title: str) -> list[str]:
    found = _strings(table[text])
    if title in table.column_names:
        joined = pc.binary_join_element_wise(_strings(table[title]), found, " ")
        found = pc.utf8_trim_whitespace(joined)
    return found.to_pylist()


def _strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(column.cast(pa.string()), "")


def _numbers(name: str, column: pa.ChunkedArray, where: Where) -> Tensor:
    """Numbers [n], or lists of equal length [n, k]."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # what no chunk holds
        array = pa.concat_arrays(array.chunks) if array.chunks else pa.array([], column.type)
    if not _is_list(array.type):
        _check_no_null(name, array, where)
        return torch.from_numpy(array.to_numpy(zero_copy_only=False).copy())
    _check_no_null(name, array, where)
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    if strange := np.flatnonzero(lengths != lengths[:1]).tolist():
        raise InputError(
            f"lists of one length in column {name}: {lengths[0]}, as in {where(0)}",
            f"{lengths[strange[0]]} in {where(strange[0])}",
            "pad or cut the lists to one length",
        )
    flat = array.flatten()
    if flat.null_count:
        width = int(lengths[0])
        bad = int(np.flatnonzero(pc.is_null(flat).to_numpy(zero_copy_only=False))[0]) // width
        raise _null(name, where(bad))
    values = torch.from_numpy(flat.to_numpy(zero_copy_only=False).copy())
    return values.view(len(array), -1) if len(array) else values.view(0, 0)


def _check_no_null(name: str, array: pa.Array, where: Where) -> None:
    if array.null_count:
        raise _null(name, where(int(np.flatnonzero(pc.is_null(array).to_numpy(False))[0])))


def _null(name: str, place: str) -> InputError:
    return InputError(f"a value of {name} in every row", f"none in {place}", "fill it in")


def _element(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if _is_list(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)


def _wrong_type(expected: str, name: str, schema: pa.Schema, what: str) -> InputError:
    return InputError(
        f"{expected} in column {name} of {what}",
        str(schema.field(name).type),
        "cast the column, or name another",
    )
