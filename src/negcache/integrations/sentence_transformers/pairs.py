"""Queries and their items as ids, which travel in the one column that reaches a loss: ``label``."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, IterableDataset

from negcache.errors import InputError
from negcache.integrations.sentence_transformers.items import Items
from negcache.known_positives import KnownPositives
from negcache.shapes import Float, Tensor

LABEL_COLUMNS = ("label", "labels", "score", "scores")


@dataclass(frozen=True, eq=False)
class CorpusPairs:
    """A data set whose labels are ids, and the corpus they belong to.

    Args:
        dataset: the query column and ``label``, the list [tag, query, positive, negatives...] of
            each row, negatives padded with -1. Select, shuffle and split it as you like; a
            DatasetDict where one was given.
        corpus: the items' texts, each once; an item id is a row here.
        known_positives: all positives of each query text, over all splits.
        log_popularity: log of each item's share of the training positives, -inf for none.
        tag: of this corpus, these queries and their known positives: labels of others are refused.
        query_column: the name that its texts had.
        positive_column: the name that the positives had.
    """

    dataset: Dataset | DatasetDict
    corpus: list[str]
    known_positives: KnownPositives
    log_popularity: Float[Tensor, "N"]
    tag: int
    query_column: str
    positive_column: str


def corpus_pairs(
    dataset: Dataset | dict[str, Dataset] | IterableDataset,
    corpus: Sequence[str] | Mapping[Any, str] | Dataset,
) -> CorpusPairs:
    """Number queries and items, so that a loss can ask for any item of the corpus.

    The positives and negatives leave the data set: the loss encodes them from the corpus.

    Args:
        dataset: columns in the order query, positive, negatives (none, one or more; None where a
            row has fewer), such as ``mine_hard_negatives`` gives as "triplet" or "n-tuple". Items
            are texts of the corpus, or its ids. Rows with the same query text are one query. Give a
            DatasetDict to evaluate on another split: its "train" is what popularity counts. No
            stream: known positives are counted before training.
        corpus: the texts by row; or by id, as a mapping or a Dataset with a column ``_id`` or
            ``id`` and one of texts. A text that stands there twice is one item. A column of the
            data set holds ids where all its values are ids; values that are texts of other items
            as well are refused.

    Raises:
        InputError: columns that are none of these, rows or items that are no texts, an id of two
            texts, or an item that is not in the corpus.
    """
    splits = _splits(dataset)
    items = Items.of(corpus)
    queries: dict[str, int] = {}
    labels = {name: _label_rows(split, items, queries) for name, split in splits.items()}
    every = np.concatenate([rows[:, :2] for rows in labels.values()])
    trained = labels.get("train", every)
    pairs = torch.from_numpy(every)
    known = KnownPositives.from_pairs(pairs[:, 0], pairs[:, 1], len(queries))
    tag = _tag(chain(items.texts, queries), known)
    numbered = {name: _labelled(split, tag, labels[name]) for name, split in splits.items()}
    query_column, positive_column = next(iter(splits.values())).column_names[:2]
    return CorpusPairs(
        DatasetDict(numbered.items()) if isinstance(dataset, dict) else numbered["train"],
        items.texts,
        known,
        _log_share(trained[:, 1], len(items.texts)),
        tag,
        query_column,
        positive_column,
    )


def _splits(dataset: Any) -> dict[str, Dataset]:
    """By name; what is given alone is for training. Raises InputError."""
    splits = dict(dataset) if isinstance(dataset, dict) else {"train": dataset}
    if not splits:
        raise InputError("splits of a data set", "none", "pass a Dataset or some splits of it")
    for name, split in splits.items():
        _check_columns(split, name)
    return splits


def _label_rows(dataset: Dataset, items: Items, queries: dict[str, int]) -> np.ndarray:
    """[query, positive, negatives...] of each row, int64; new queries are numbered on."""
    query, *others = dataset.column_names
    texts = dataset[query][:]
    _check_queries(texts, query)
    asked = [queries.setdefault(text, len(queries)) for text in texts]
    columns = [items.rows(dataset[name][:], name) for name in others]
    if -1 in columns[0]:
        raise InputError(
            "a positive in every row", f"None in column {others[0]!r}", "filter these rows out"
        )
    return np.array([asked, *columns], dtype=np.int64).T


def _labelled(dataset: Dataset, tag: int, rows: np.ndarray) -> Dataset:
    """The query column, and the list [tag, *row] as label."""
    tagged = np.pad(rows, ((0, 0), (1, 0)), constant_values=tag)
    labels = pa.FixedSizeListArray.from_arrays(pa.array(tagged.ravel()), tagged.shape[1])
    queries = dataset.select_columns(dataset.column_names[:1])
    return queries.add_column("label", labels)


def _check_columns(dataset: Any, name: str) -> None:
    """Query, positive, negatives. Raises InputError."""
    if not isinstance(dataset, Dataset):
        raise InputError(
            "a datasets.Dataset, or a DatasetDict of them",
            f"{type(dataset).__name__} as {name!r}",
            "load it into a Dataset: the known positives are counted before training",
        )
    columns = dataset.column_names
    if len(columns) < 2 or set(columns) & set(LABEL_COLUMNS):
        raise InputError(
            "rows with the columns query, positive, negatives, in this order and no others",
            f"columns {columns} in {name!r}",
            "select_columns; mine_hard_negatives gives them as output_format='n-tuple'",
        )
    if not len(dataset):
        raise InputError("rows in every split", f"0 rows in {name!r}", "leave the split out")


def _check_queries(texts: Sequence[Any], column: str) -> None:
    """Texts, every one. Raises InputError."""
    strange = [row for row, text in enumerate(texts) if not isinstance(text, str)]
    if strange:
        raise InputError(
            "queries as texts in the first column",
            f"{type(texts[strange[0]]).__name__} in row {strange[0]} of {column!r}, and in "
            f"{len(strange) - 1} more",
            "select_columns with the query's text first; filter out rows without one",
        )


def _log_share(positives: np.ndarray, num_items: int) -> Tensor:
    counts = torch.from_numpy(np.bincount(positives, minlength=num_items)).float()
    return (counts / counts.sum()).log()


def _tag(texts: Iterable[str], known: KnownPositives) -> int:
    """A checksum of texts in their order, and of what answers what."""
    tag = 0
    for text in texts:
        tag = zlib.crc32(text.encode("utf-8", "surrogatepass") + b"\0", tag)
    for table in (known.offsets, known.items):
        tag = zlib.crc32(table.tobytes(), tag)
    return tag
