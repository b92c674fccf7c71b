"""The table behind a store: in memory, or in a file."""

from pathlib import Path

import torch

from negcache.errors import InputError
from negcache.ops.shards import Shard
from negcache.shapes import Tensor
from negcache.stores.file_table import FileTable
from negcache.stores.table import RowTable


def make_table(
    shard: Shard,
    dim: int,
    dtype: torch.dtype,
    device: torch.device | str,
    path: Path | str | None,
) -> RowTable | FileTable:
    """Rows that were never written.

    Args:
        shard: which rows are here, S of them.
        dim: D.
        dtype: of the rows; int8: with a scale each.
        device: where they live.
        path: of a file to keep them in, on the host; None: memory.

    Raises:
        InputError: the file is another one, has no room, or the rows are to live on a device.
    """
    if path is None:
        return RowTable(shard, dim, dtype, device)
    FileTable.check_device(device)
    return FileTable(shard, dim, dtype, path)


def check_dim(rows: Tensor, dim: int) -> None:
    """Refuse rows of other dimensions. Raises InputError."""
    if rows.shape[1] != dim:
        raise InputError(
            f"rows of the store's {dim} dimensions",
            f"{rows.shape[1]}",
            "give the store the output dimensions of the item tower",
        )
