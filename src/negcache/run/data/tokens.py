"""Tokenized texts in a memory-mapped file, so that a corpus may be larger than memory."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from negcache.ragged import take_rows
from negcache.run.atomic import atomic_write
from negcache.shapes import Int, Tensor
from negcache.towers import Bags


class TokenFile:
    """Token ids of many texts, read from disk as they are asked for; an `interfaces.Corpus`.

    A folder of two NumPy files: ``tokens.npy``, all texts end to end in the smallest unsigned
    type that fits, and ``offsets.npy``, int64 [N + 1].

    Example:
        >>> path = write_tokens(Path(getfixture("tmp_path")) / "tokens", [[[5, 6], [7]]])
        >>> TokenFile.open(path)[torch.tensor([1, 0])]
        Bags(tokens=tensor([7, 5, 6]), starts=tensor([0, 1]))
    """

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray) -> None:
        self.tokens, self.offsets = tokens, offsets

    @staticmethod
    def open(path: Path | str) -> "TokenFile":
        """Map the two files; reads nothing yet."""
        tokens, offsets = (Path(path) / name for name in ("tokens.npy", "offsets.npy"))
        return TokenFile(np.load(tokens, mmap_mode="r"), np.load(offsets, mmap_mode="r"))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> Bags:
        """The texts of these ids, in their order."""
        tokens, counts = take_rows(self.offsets, self.tokens, ids.cpu().numpy())
        starts = np.cumsum(counts) - counts
        bags = Bags(torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(starts))
        return bags.to(ids.device)

    def lengths(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        """Tokens in each of these texts."""
        rows = ids.cpu().numpy()
        return torch.from_numpy(self.offsets[rows + 1] - self.offsets[rows]).to(ids.device)


def write_tokens(
    path: Path | str, batches: Iterable[list[list[int]]], *, vocab_size: int = 2**32
) -> Path:
    """Stream tokenized texts into a token file; memory holds one batch.

    Args:
        path: the folder to make; it appears only when it is complete.
        batches: token ids of each text, a batch of texts at a time.
        vocab_size: every token is below it; decides the type on disk.
    """
    path, kind = Path(path), np.min_scalar_type(vocab_size - 1)
    with atomic_write(path) as folder:
        folder.mkdir()
        with (
            closing(_GrowingArray(folder / "tokens.npy", kind)) as tokens,
            closing(_GrowingArray(folder / "offsets.npy", np.dtype(np.int64))) as offsets,
        ):
            offsets.append(np.zeros(1, np.int64))
            for texts in batches:
                counts = np.array([len(text) for text in texts], np.int64)
                offsets.append(tokens.length + np.cumsum(counts))
                tokens.append(np.array([token for text in texts for token in text], kind))
    return path


class _GrowingArray:
    """A one-dimensional .npy file written piece by piece; its header leaves room to grow."""

    def __init__(self, path: Path, kind: np.dtype) -> None:
        self.stream: BinaryIO = path.open("wb")
        self.kind, self.length = kind, 0
        self._write_header()

    def append(self, values: np.ndarray) -> None:
        self.stream.write(values.astype(self.kind, copy=False).tobytes())
        self.length += len(values)

    def _write_header(self) -> None:
        self.stream.seek(0)
        header = {"descr": self.kind.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self.stream, header)

    def close(self) -> None:
        self._write_header()
        self.stream.close()
