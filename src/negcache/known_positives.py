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
        if len(queries) != len(items) or (len(items) and min(queries.min(), items.min()) < 0):
            raise InputError(
                "one item id for each query id, none negative",
                f"{len(queries)} query ids and {len(items)} item ids",
                "pass two columns of (query, item) pairs",
            )
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
        batch = np.arange(len(counts))
        rows = np.concatenate([np.repeat(batch, counts), batch])
        ids = np.concatenate([known, positives.cpu().numpy()])
        device = positives.device
        return Exclusion.from_pairs(
            torch.from_numpy(rows).to(device), torch.from_numpy(ids).to(device), len(counts)
        )

    def save(self, path: Path | str) -> Path:
        """Write a folder of two .npy files; it appears only when it is complete."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as beside:
            folder = Path(beside) / path.name
            folder.mkdir()
            np.save(folder / "offsets.npy", self.offsets)
            np.save(folder / "items.npy", self.items)
            shutil.rmtree(path, ignore_errors=True)
            folder.rename(path)
        return path

    @staticmethod
    def open(path: Path | str) -> "KnownPositives":
        """Map a saved table; reads nothing yet."""
        offsets, items = (Path(path) / name for name in ("offsets.npy", "items.npy"))
        return KnownPositives(np.load(offsets, mmap_mode="r"), np.load(items, mmap_mode="r"))
