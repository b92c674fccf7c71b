"""The items known to answer each query, so that no sampler offers them as negatives."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.ragged import take_rows
from negcache.shapes import Int, Tensor


@dataclass(frozen=True, eq=False)
class KnownPositives:
    """Known positives of every query, as a compressed sparse row table.

    Args:
        offsets: int64 [Q + 1]; query q owns ``items[offsets[q]:offsets[q + 1]]``.
        items: item ids, ascending and distinct within a query. Both may be memory-mapped.

    Examples:
        >>> known = KnownPositives.from_pairs(torch.tensor([0, 0, 1]), torch.tensor([7, 3, 5]))
        >>> known.exclusion(torch.tensor([0]), torch.tensor([3])).ids
        tensor([3, 7])
    """

    offsets: np.ndarray
    items: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @staticmethod
    def from_pairs(
        queries: Int[Tensor, "_"], items: Int[Tensor, "_"], num_queries: int | None = None
    ) -> "KnownPositives":
        """Build the table from pairs in any order, repeats allowed.

        Args:
            queries: query id of each pair, [P].
            items: item id of each pair, [P].
            num_queries: rows of the table; None: the largest query id and one.
        """
        _check_pairs(queries, items)
        needed = int(queries.max()) + 1 if len(queries) else 0
        rows = needed if num_queries is None else num_queries
        if rows < needed:
            raise InputError(
                f"query ids below {rows}", f"query id {needed - 1}", "raise num_queries"
            )
        table = Exclusion.from_pairs(queries.cpu(), items.cpu(), rows)
        return KnownPositives(table.offsets.numpy(), table.ids.numpy())

    def exclusion(self, query_ids: Int[Tensor, "B"], positives: Int[Tensor, "B"]) -> Exclusion:
        """What may not stand for each query of a batch: its known positives and its target."""
        known, counts = take_rows(self.offsets, self.items, query_ids.cpu().numpy())
        return _with_targets(np.repeat(np.arange(len(counts)), counts), known, positives)

    def save(self, path: Path | str) -> Path:
        """Write a folder of two .npy files; it appears only when it is complete."""
        return _save(Path(path), offsets=self.offsets, items=self.items)

    @staticmethod
    def open(path: Path | str) -> "KnownPositives":
        """Map a saved table; reads nothing yet."""
        return KnownPositives(*_mapped(Path(path), "offsets", "items"))


@dataclass(frozen=True, eq=False)
class PositivesById:
    """Known positives of queries that have ids of your own, such as those of a stream.

    A query that the table does not have has no known positive but its target. It takes 16 bytes a
    query and 8 a pair.

    Args:
        queries: int64 [Q], ids of 0 or more, ascending and distinct.
        offsets: int64 [Q + 1]; query ``queries[q]`` owns ``items[offsets[q]:offsets[q + 1]]``.
        items: int64 [P], ascending and distinct within a query. All three may be memory-mapped.

    Examples:
        >>> ids = torch.tensor([2**40, 2**40, 1]), torch.tensor([7, 2**60, 5])
        >>> known = PositivesById.from_pairs(*ids)
        >>> known.exclusion(torch.tensor([2**40]), torch.tensor([7])).ids
        tensor([                  7, 1152921504606846976])
    """

    queries: np.ndarray
    offsets: np.ndarray
    items: np.ndarray

    def __len__(self) -> int:
        return len(self.queries)

    @staticmethod
    def from_pairs(queries: Int[Tensor, "_"], items: Int[Tensor, "_"]) -> "PositivesById":
        """Build the table from pairs in any order, repeats allowed.

        Args:
            queries: query id of each pair, [P].
            items: item id of each pair, [P].

        Raises:
            InputError: columns of unequal length, or an id below 0.
        """
        _check_pairs(queries, items)
        pairs = distinct_pairs(queries.cpu().long().numpy(), items.cpu().long().numpy())
        return PositivesById(*by_query(*pairs))

    def exclusion(self, query_ids: Int[Tensor, "B"], positives: Int[Tensor, "B"]) -> Exclusion:
        """What may not stand for each query of a batch: its known positives and its target."""
        wanted = query_ids.cpu().numpy()
        place = np.searchsorted(self.queries, wanted)
        has = np.flatnonzero(place < len(self.queries))
        has = has[self.queries[place[has]] == wanted[has]]
        known, counts = take_rows(self.offsets, self.items, place[has])
        return _with_targets(np.repeat(has, counts), known, positives)

    def save(self, path: Path | str) -> Path:
        """Write a folder of three .npy files; it appears only when it is complete."""
        own = {"queries": self.queries, "offsets": self.offsets, "items": self.items}
        return _save(Path(path), **own)

    @staticmethod
    def open(path: Path | str) -> "PositivesById":
        """Map a saved table; reads nothing yet."""
        return PositivesById(*_mapped(Path(path), "queries", "offsets", "items"))


def distinct_pairs(queries: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs by query, then by item, each once."""
    order = np.lexsort((items, queries))
    queries, items = queries[order], items[order]
    del order
    new = _differs(queries) | _differs(items)
    return queries[new], items[new]


def by_query(queries: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs in order as a table: distinct queries [Q], offsets [Q + 1], the items [P]."""
    first = np.flatnonzero(_differs(queries))
    return queries[first], np.append(first, len(queries)), items


def _differs(values: np.ndarray) -> np.ndarray:
    """Whether each value is another than the one before."""
    found = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=found[1:])
    return found


def _with_targets(rows: np.ndarray, known: np.ndarray, positives: Tensor) -> Exclusion:
    """The known positives of rows of a batch, and the target of each row."""
    rows = np.concatenate([rows, np.arange(len(positives))])
    ids = np.concatenate([known, positives.cpu().numpy()])
    queries, items = (torch.from_numpy(each).to(positives.device) for each in (rows, ids))
    return Exclusion.from_pairs(queries, items, len(positives))


def _check_pairs(queries: Tensor, items: Tensor) -> None:
    if len(queries) != len(items) or (len(items) and min(queries.min(), items.min()) < 0):
        raise InputError(
            "one item id for each query id, none negative",
            f"{len(queries)} query ids and {len(items)} item ids",
            "pass two columns of (query, item) pairs",
        )


def _save(path: Path, **arrays: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as beside:
        folder = Path(beside) / path.name
        folder.mkdir()
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        shutil.rmtree(path, ignore_errors=True)
        folder.rename(path)
    return path


def _mapped(path: Path, *names: str) -> list[np.ndarray]:
    return [np.load(path / f"{name}.npy", mmap_mode="r") for name in names]
