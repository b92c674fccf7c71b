"""From features to embeddings, a chunk at a time: no gradient, dropout off."""

from collections.abc import Iterator

import torch
from torch import nn

from negcache.encoder import ItemEncoder, Progress
from negcache.interfaces import Corpus
from negcache.score import Score
from negcache.shapes import Float, Int, Tensor


def encode_all(
    tower: nn.Module,
    features: Corpus,
    score: Score,
    *,
    ids: Int[Tensor, "M"] | None = None,
    chunk: int = 4096,
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
    ids: Int[Tensor, "M"] | None = None,
    chunk: int = 4096,
    progress: Progress = iter,
) -> Iterator[tuple[Int[Tensor, "c"], Float[Tensor, "c D"]]]:
    """The chunks of `encode_all` one after the other, each with its ids."""
    wanted = torch.arange(len(features)) if ids is None else ids
    wanted = wanted.to(next(tower.parameters()).device)
    return ItemEncoder(tower, features, score).encode_all(wanted, chunk, progress)
