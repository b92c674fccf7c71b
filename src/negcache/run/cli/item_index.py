"""The encoded corpus on disk, in parts that are written whole and read a chunk at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from negcache.run.atomic import atomic_write, forget_interrupted, writing
from negcache.shapes import Float, Tensor

PART_BYTES = 1 << 26
"""Of a file, about."""

CHUNK = 8192
"""Items that are read at a time; those of a part are a multiple."""


@dataclass(frozen=True)
class ItemIndex:
    """Embeddings of all items in a folder of safetensors files, each of consecutive items.

    A part that is damaged, or of another checkpoint or corpus, counts as missing.

    Args:
        folder: of the files; it need not exist.
        num_items: N.
        dim: D.
        of: what they were encoded by and from; kept in every file.
    """

    folder: Path
    num_items: int
    dim: int
    of: dict[str, str]

    @property
    def parts(self) -> list[range]:
        """Ids of the items of each file."""
        size = max(1, PART_BYTES // (CHUNK * self.dim * torch.float32.itemsize)) * CHUNK
        every = range(self.num_items)
        return [every[first : first + size] for first in range(0, self.num_items, size)]

    def missing(self) -> list[range]:
        """The parts that have to be encoded; of the files headers alone are read."""
        return [part for part in self.parts if not self._has(part)]

    def write(self, part: range, rows: Float[Tensor, "c D"]) -> None:
        """Keep the rows of a part, whole or not at all."""
        path = self._path(part)
        forget_interrupted(path)
        with writing(path), atomic_write(path) as place:
            save_file({"rows": rows.cpu()}, place, metadata=self.of)

    def chunks(self, device: torch.device) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        """Consecutive blocks of all rows, each with the id of its first."""
        for part in self.parts:
            with safe_open(self._path(part), "pt") as file:
                rows = file.get_slice("rows")
                for first in range(0, len(part), CHUNK):
                    yield part.start + first, rows[first : first + CHUNK].to(device)

    def _path(self, part: range) -> Path:
        return self.folder / f"items-{part.start:012d}.safetensors"

    def _has(self, part: range) -> bool:
        path = self._path(part)
        try:
            with safe_open(path, "pt") as file:
                shape = file.get_slice("rows").get_shape()
                return file.metadata() == self.of and shape == [len(part), self.dim]
        except (OSError, SafetensorError):  # absent or damaged: it is only a copy
            return False
