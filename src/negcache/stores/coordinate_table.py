"""The table behind a low-rank cache: in ordinary memory, or mapped from a file."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from negcache.errors import InputError
from negcache.ops.nystrom import with_ones
from negcache.shapes import Float, Int, Tensor
from negcache.validation import check_finite

BLOCK = 1 << 14
"""Rows that are moved at a time: a bound on memory."""


class CoordinateTable:
    """Coordinates [N, C] without their column of ones, which is put on when they are read.

    A file is no checkpoint: what an earlier run left in it is lost.

    Args:
        shape: items, and the most columns that there can be.
        dtype: of the stored numbers.
        device: of what is read.
        path: of the file, made if it is not there, emptied if it is; None: ordinary memory.

    Attributes:
        rank: columns in use.
        exact: dtype of what is read, float32 at least.

    Raises:
        InputError: a file of another size is there, or the disk has no room.
    """

    on_host = ("stored",)

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        path: Path | str | None,
    ) -> None:
        self.device, self.rank = device, shape[1]
        self.exact = torch.promote_types(dtype, torch.float32)
        if path is None:
            self.stored = torch.zeros(shape, dtype=dtype)
            return
        _check_file(Path(path), math.prod(shape) * dtype.itemsize)
        Path(path).unlink(missing_ok=True)  # whoever maps the old file keeps it
        flat = torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype)
        self.stored = flat.view(shape).zero_()  # nothing that an earlier run left is ever read

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M C"]:
        return self._read(self.stored.index_select(0, slots.cpu()))

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c C"]]]:
        for first in range(0, len(self.stored), size):
            yield first, self._read(self.stored[first : first + size])

    def write(self, slots: Int[Tensor, "M"], coordinates: Float[Tensor, "M C"]) -> None:
        reduced = check_finite(coordinates[:, :-1].to(self.stored), slots)
        self.stored[:, : self.rank].index_copy_(0, slots.cpu(), reduced)

    def move(self, move: Float[Tensor, "C K"]) -> None:
        """Every row z becomes ``z @ move``, in place."""
        for first, block in self.chunks(BLOCK):
            reduced = (block @ move)[:, :-1].to(self.stored)
            self.stored[first : first + len(block), : reduced.shape[1]] = reduced
        self.rank = move.shape[1] - 1

    def load(self, stored: Tensor) -> None:
        """Take saved rows: the first ones of the table, if there are fewer."""
        self.stored[: len(stored), : stored.shape[1]] = stored

    def _read(self, block: Tensor) -> Tensor:
        return with_ones(block[:, : self.rank].to(self.device, self.exact))


def check_settings(
    num_items: int, landmarks: int, every: int, sample: int, full_below: float
) -> None:
    """Those of a low-rank cache. Raises InputError."""
    if num_items < 2:
        raise InputError("at least 2 items", f"{num_items}", "a softmax needs a negative")
    if min(landmarks, every) < 1 or sample < 10 or not 0 <= full_below <= 1:
        raise InputError(
            "landmarks and every of 1 or more, a sample of 10 or more, full_below from 0 to 1",
            f"{landmarks}, {every}, {sample} and {full_below}",
            "128, 100, 8192 and 0.9 are the defaults",
        )


def _check_file(path: Path, size: int) -> None:
    if path.exists():
        if path.stat().st_size != size:
            raise InputError(
                f"a file of {size} bytes",
                f"{path.stat().st_size} at {path}",
                "give another path, or delete the file: a saved state or a fill writes it anew",
            )
        return
    room = shutil.disk_usage(path.absolute().parent).free if path.absolute().parent.is_dir() else 0
    if room < size:
        raise InputError(
            f"a folder with room for {size} bytes at {path}",
            f"{room}",
            "make the folder, choose another disk, or take fewer landmarks",
        )
