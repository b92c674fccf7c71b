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
from negcache.known_positives import KnownPositives
from negcache.shapes import Float, Tensor

LABEL_COLUMNS = ("label", "labels", "score", "scores")
ID_COLUMNS = ("_id", "id")
SHOWN = 80
"""Letters of a text that an error quotes."""


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
        tag: of this corpus and these queries: labels of others are refused.
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
            ``id``. A text that stands there twice is one item.

    Raises:
        InputError: columns that are none of these, or an item that is not in the corpus.
    """
    items = _Items.of(corpus)
    splits = _splits(dataset)
    queries: dict[str, int] = {}
    labels = {name: _label_rows(split, items, queries) for name, split in splits.items()}
    tag = _tag(chain(items.texts, queries))
    numbered = {name: _labelled(split, tag, labels[name]) for name, split in splits.items()}
    every = np.concatenate([rows[:, :2] for rows in labels.values()])
    trained = labels.get("train", every)
    known = torch.from_numpy(every)
    query_column, positive_column = next(iter(splits.values())).column_names[:2]
    return CorpusPairs(
        DatasetDict(numbered.items()) if isinstance(dataset, dict) else numbered["train"],
        items.texts,
        KnownPositives.from_pairs(known[:, 0], known[:, 1], len(queries)),
        _log_share(trained[:, 1], len(items.texts)),
        tag,
        query_column,
        positive_column,
    )


def _splits(dataset: Any) -> dict[str, Dataset]:
    """By name; what is given alone is for training. Raises InputError."""
    splits = dict(dataset) if isinstance(dataset, dict) else {"train": dataset}
    for split in splits.values():
        _check_columns(split)
    return splits


@dataclass(frozen=True)
class _Items:
    """The texts of a corpus, each once, and how to find one."""

    texts: list[str]
    by_key: dict[Any, int]
    by_text: dict[str, int]

    @staticmethod
    def of(corpus: Sequence[str] | Mapping[Any, str] | Dataset) -> "_Items":
        if isinstance(corpus, Mapping):
            keys, texts = list(corpus), list(corpus.values())
        elif isinstance(corpus, Dataset):
            keys, texts = _columns_of(corpus)
        else:
            keys, texts = range(len(corpus)), list(corpus)
        if strange := [text for text in texts if not isinstance(text, str)]:
            raise InputError(
                "a corpus of texts", f"a {type(strange[0]).__name__} in it", "pass the texts alone"
            )
        by_text: dict[str, int] = {}
        by_key = {
            key: by_text.setdefault(text, len(by_text))
            for key, text in zip(keys, texts, strict=True)
        }
        return _Items(list(by_text), by_key, by_text)

    def rows(self, values: list[Any], column: str) -> list[int]:
        """Item ids of a column of texts, or of ids; -1 for None."""
        given = [value for value in values if value is not None]
        table = self.by_key if all(value in self.by_key for value in given) else self.by_text
        missing = [value for value in given if value not in table]
        if missing:
            raise InputError(
                f"texts or ids of the corpus in column {column!r}",
                f"{str(missing[0])[:SHOWN]!r}, which is none of its {len(self.texts)} items, "
                f"and {len(missing) - 1} more",
                "add them to the corpus, word for word, or drop these rows or this column",
            )
        return [-1 if value is None else table[value] for value in values]


def _columns_of(corpus: Dataset) -> tuple[Iterable[Any], list[Any]]:
    """Ids and texts of a corpus that is a data set."""
    ids = [name for name in corpus.column_names if name in ID_COLUMNS]
    others = [name for name in corpus.column_names if name not in ID_COLUMNS]
    text = "text" if "text" in others else others[0] if len(others) == 1 else None
    if text is None:
        raise InputError(
            'a corpus with a column "text"',
            f"columns {corpus.column_names}",
            "rename the column, or pass a list or a mapping from ids to texts",
        )
    return (corpus[ids[0]][:] if ids else range(len(corpus))), corpus[text][:]


def _label_rows(dataset: Dataset, items: _Items, queries: dict[str, int]) -> np.ndarray:
    """[query, positive, negatives...] of each row, int64; new queries are numbered on."""
    query, *others = dataset.column_names
    asked = [queries.setdefault(text, len(queries)) for text in dataset[query][:]]
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


def _check_columns(dataset: Any) -> None:
    """Query, positive, negatives. Raises InputError."""
    if not isinstance(dataset, Dataset):
        raise InputError(
            "a datasets.Dataset, or a DatasetDict of them",
            type(dataset).__name__,
            "load it into a Dataset: the known positives are counted before training",
        )
    columns = dataset.column_names
    if len(columns) < 2 or not len(dataset) or set(columns) & set(LABEL_COLUMNS):
        raise InputError(
            "rows with the columns query, positive, negatives, in this order and no others",
            f"{len(dataset)} rows with columns {columns}",
            "select_columns; mine_hard_negatives gives them as output_format='n-tuple'",
        )
    if not isinstance(dataset[0][columns[0]], str):
        raise InputError(
            "queries as texts in the first column",
            f"{type(dataset[0][columns[0]]).__name__} in {columns[0]!r}",
            "select_columns: the query's text first",
        )


def _log_share(positives: np.ndarray, num_items: int) -> Tensor:
    counts = torch.from_numpy(np.bincount(positives, minlength=num_items)).float()
    return (counts / counts.sum()).log()


def _tag(texts: Iterable[str]) -> int:
    """A checksum of texts in their order."""
    tag = 0
    for text in texts:
        tag = zlib.crc32(text.encode("utf-8", "surrogatepass") + b"\0", tag)
    return tag
