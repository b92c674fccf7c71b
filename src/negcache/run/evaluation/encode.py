"""From features to embeddings, a chunk at a time: no gradient, dropout off."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from negcache.protocols import Corpus, Score
from negcache.shapes import Float, Int, Tensor
from negcache.towers import finite, without_dropout

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""Wraps an iterable to show how far it is; ``iter`` shows nothing."""


@torch.no_grad()
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
    wanted = torch.arange(len(features)) if ids is None else ids
    device = next(tower.parameters()).device
    with without_dropout(tower):
        return torch.cat(
            [
                finite(score.embed(tower(features[part].to(device))), part)
                for part in progress(wanted.split(chunk))
            ]
        )
