"""Tokenized texts in a memory-mapped file, so that a corpus may be larger than memory."""

import json
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from negcache.ragged import take_rows
from negcache.run.atomic import atomic_write
from negcache.run.data.growing_array import GrowingArray, say_written
from negcache.shapes import Int, Tensor
from negcache.towers import Bags

CHECKPOINT = 65_536
"""Texts after which it is made sure that they are on the disk: what an interruption may cost."""


class TokenFile:
    """Token ids of many texts, read from disk as they are asked for; an `interfaces.Corpus`.

    A folder of two NumPy files: ``tokens.npy``, all texts end to end in the smallest unsigned
    type that fits, and ``offsets.npy``, int64 [N + 1]; ``written.json`` counts both.

    Examples:
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
    path = Path(path)
    with atomic_write(path) as folder:
        continue_tokens(folder, lambda _: batches, vocab_size=vocab_size)
    return path


def continue_tokens(
    path: Path,
    batches: Callable[[int], Iterable[list[list[int]]]],
    *,
    vocab_size: int,
) -> None:
    """As `write_tokens`, in place: what an interrupted call has written is gone on from.

    ``written.json`` says, every `CHECKPOINT` texts, how many texts and tokens are on the disk for
    certain; what stands behind them is cut off. In the end the files are those of a call that was
    never interrupted.

    Args:
        path: the folder.
        batches: from the number of the first text to the token ids of each text from there on.
        vocab_size: every token is below it; decides the type on disk.
    """
    path.mkdir(exist_ok=True)
    written = path / "written.json"
    told = json.loads(written.read_text("utf-8")) if written.exists() else {"texts": 0, "tokens": 0}
    kind = np.min_scalar_type(vocab_size - 1)
    with (
        closing(GrowingArray(path / "tokens.npy", kind, told["tokens"])) as tokens,
        closing(GrowingArray(path / "offsets.npy", np.dtype(np.int64), told["texts"])) as offsets,
    ):
        # texts are counted by their first token; the end of the last is written at the end
        for texts in batches(offsets.length):
            counts = np.array([len(text) for text in texts], np.int64)
            offsets.append(tokens.length + np.cumsum(counts) - counts)
            tokens.append(np.array([token for text in texts for token in text], kind))
            if offsets.length - told["texts"] >= CHECKPOINT:
                told = {"texts": offsets.length, "tokens": tokens.length}
                say_written(written, told, tokens, offsets)
        told = {"texts": offsets.length, "tokens": tokens.length}
        say_written(written, told, tokens, offsets)
        offsets.append(np.array([tokens.length], np.int64))
