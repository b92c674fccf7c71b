"""Rows in numbered slots, and the step that each was last written in."""

from collections.abc import Iterator
from typing import Any

import torch

from negcache.errors import InputError
from negcache.ops.shards import Shard
from negcache.shapes import Bool, Float, Int, Tensor


class RowTable:
    """What ``DenseCache`` and ``SubsetCache`` keep their embeddings in.

    Args:
        shard: which rows are here, S of them.
        dim: D.
        dtype: of the rows.
        device: where they live.

    Attributes:
        embeddings: [S, D].
        written: int64 [S], -1 for a row that was never written, or was let go.
    """

    def __init__(
        self, shard: Shard, dim: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.shard = shard
        self.embeddings = torch.zeros(shard.size, dim, dtype=dtype, device=device)
        self.written = torch.full((shard.size,), -1, dtype=torch.int64, device=device)

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def valid(self) -> Bool[Tensor, "S"]:
        return self.written >= 0

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        for first in range(0, len(self), size):
            yield first, self.embeddings[first : first + size]

    def read(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        return self.embeddings.index_select(0, slots)  # on a CPU 4 x faster than [slots]

    def check(self, rows: Float[Tensor, "M D"]) -> None:
        """Refuse rows of other dimensions. Raises InputError."""
        if rows.shape[1] != self.embeddings.shape[1]:
            raise InputError(
                f"rows of the store's {self.embeddings.shape[1]} dimensions",
                f"{rows.shape[1]}",
                "give the store the output dimensions of the item tower",
            )

    def write(self, slots: Int[Tensor, "M"], rows: Float[Tensor, "M D"], step: int) -> None:
        self.embeddings[slots] = rows.detach().to(self.embeddings.dtype)
        self.written[slots] = step

    def state_dict(self) -> dict[str, Any]:
        """The rows here, part by part: states of several processes add up to that of one."""
        parts = {
            name: {"embeddings": self.embeddings[rows], "written": self.written[rows]}
            for name, rows in self.shard.parts.items()
        }
        return {"table": {"rows": self.shard.total, "dim": self.embeddings.shape[1], **parts}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the parts that are here; there may be others."""
        saved = state["table"]
        got, have = (saved["rows"], saved["dim"]), (self.shard.total, self.embeddings.shape[1])
        if got != have:
            raise InputError(
                f"stored rows of shape {have}", f"{got}", "build the store as it was when saved"
            )
        missing = [name for name in self.shard.parts if name not in saved]
        if missing:
            raise InputError(
                f"{self.shard.name}, which this process holds",
                f"a state without {missing[0]} and {len(missing) - 1} more parts",
                "load what this very process saved, or what all of them saved together",
            )
        for name, rows in self.shard.parts.items():
            self.embeddings[rows] = saved[name]["embeddings"]
            self.written[rows] = saved[name]["written"]
