"""From features to embeddings, a chunk at a time: no gradient, dropout off."""

from collections.abc import Iterator

import torch
from torch import nn

from negcache.encoder import ItemEncoder, Progress
from negcache.interfaces import Corpus
from negcache.score import Score
from negcache.shapes import Float, Int, Tensor

CHUNK = 4096
"""Items per forward pass."""


def encode_all(
    tower: nn.Module,
    features: Corpus,
    score: Score,
    *,
    ids: Int[Tensor, "M"] | None = None,
    chunk: int = CHUNK,
    progress: Progress = iter,
) -> Float[Tensor, "M D"]:
    """``score.embed(tower(features[ids]))`` in chunks.

    Args:
        tower: maps features to (B, D); the modes of its parts are left as they were.
        features: anything sized and indexed by ids.
        score: brings the tower's output to the form that is scored.
        ids: which rows, in this order; None: all of them.
        chunk: rows per forward pass.
    """
    parts = encoded(tower, features, score, ids=ids, chunk=chunk, progress=progress)
    return torch.cat([rows for _, rows in parts])


def encoded(
    tower: nn.Module,
    features: Corpus,
    score: Score,
    *,
    ids: Int[Tensor, "M"] | range | None = None,
    chunk: int = CHUNK,
    progress: Progress = iter,
) -> Iterator[tuple[Int[Tensor, "c"], Float[Tensor, "c D"]]]:
    """The chunks of `encode_all` one after the other, each with its ids: no more is in memory.

    Args:
        ids: a range costs nothing, however long.
    """
    wanted = range(len(features)) if ids is None else ids
    device = next(tower.parameters()).device
    encoder = ItemEncoder(tower, features, score)
    for first in progress(range(0, len(wanted), chunk)):
        some = wanted[first : first + chunk]
        some = torch.arange(some.start, some.stop, some.step) if isinstance(some, range) else some
        yield from encoder.encode_all(some.to(device), chunk)
