"""Rows in numbered slots, in memory, and the step that each was last written in."""

from typing import Any

import torch

from negcache.errors import InputError
from negcache.ops.shards import Shard
from negcache.shapes import Bool, Float, Int, Tensor
from negcache.stores.row_memory import FloatRows, Int8Rows

NEVER = -1
"""When a row was written that never was, or was let go."""


class RowTable:
    """What stores keep their embeddings in; ``FileTable`` is the same in a file.

    Args:
        shard: which rows are here, S of them.
        dim: D.
        dtype: of the rows; int8: with a scale each.
        device: where they live.

    Attributes:
        rows: how they are kept, and read.
        written: int32 [S], -1 for a row that was never written, or was let go.
    """

    def __init__(
        self, shard: Shard, dim: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.shard = shard
        self.dim = dim
        self.rows = (Int8Rows if dtype == torch.int8 else FloatRows)(shard.size, dim, dtype, device)
        self.written = torch.full((shard.size,), NEVER, dtype=torch.int32, device=device)

    @property
    def embeddings(self) -> Tensor:
        """The numbers that the rows are kept as, [S, D]."""
        return self.rows.stored

    @property
    def valid(self) -> Bool[Tensor, "S"]:
        return self.written >= 0

    def write(self, slots: Int[Tensor, "M"], rows: Float[Tensor, "M D"], step: int) -> None:
        self.rows.write(slots, rows.detach())
        self.written[slots] = step

    def let_go(self, slots: Int[Tensor, "M"]) -> None:
        """These rows are valid no more, until they are written."""
        self.written[slots] = NEVER

    def state_dict(self) -> dict[str, Any]:
        """The rows here, part by part: states of several processes add up to that of one."""
        parts = {
            name: self.rows.part(rows) | {"written": self.written[rows]}
            for name, rows in self.shard.parts.items()
        }
        return {"table": {"rows": self.shard.total, "dim": self.dim, **parts}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the parts that are here; there may be others."""
        saved = state["table"]
        check_shape(saved, self.shard.total, self.dim)
        missing = [name for name in self.shard.parts if name not in saved]
        if missing:
            raise InputError(
                f"{self.shard.name}, which this process holds",
                f"a state without {missing[0]} and {len(missing) - 1} more parts",
                "load what this very process saved, or what all of them saved together",
            )
        for name, rows in self.shard.parts.items():
            kept = sorted(self.rows.part(rows))
            if (there := sorted(set(saved[name]) - {"written"})) != kept:
                raise InputError(
                    f"rows saved as {kept}", f"{there}", "build the store with the dtype it had"
                )
            self.rows.load_part(rows, saved[name])
            self.written[rows] = saved[name]["written"]


def check_shape(saved: dict[str, Any], rows: int, dim: int) -> None:
    """Refuse the state of another table. Raises InputError."""
    if (got := (saved["rows"], saved["dim"])) != (rows, dim):
        raise InputError(
            f"stored rows of shape {rows, dim}", f"{got}", "build the store as it was when saved"
        )
