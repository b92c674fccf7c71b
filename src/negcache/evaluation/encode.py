"""From features to embeddings, a chunk at a time: no gradient, dropout off."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from negcache.errors import InputError
from negcache.protocols import Corpus, Score
from negcache.shapes import Float, Int, Tensor

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
        tower: maps features to (B, D); its train or eval mode is left as it was.
        features: anything sized and indexed by ids.
        score: brings the tower's output to the form that is scored.
        ids: which rows, in this order; None: all of them.
        chunk: rows per forward pass.
    """
    wanted = torch.arange(len(features)) if ids is None else ids
    device = next(tower.parameters()).device
    with evaluating(tower):
        return torch.cat(
            [
                _finite(score.embed(tower(features[part].to(device))), part)
                for part in progress(wanted.split(chunk))
            ]
        )


@contextmanager
def evaluating(tower: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode of before outside."""
    before = tower.training
    tower.eval()
    try:
        yield
    finally:
        tower.train(before)


def _finite(rows: Float[Tensor, "M D"], ids: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
    bad = ids[~rows.isfinite().all(dim=1).to(ids.device)]
    if len(bad):
        raise InputError(
            "finite embeddings",
            f"NaN or inf in {len(bad)} of {len(rows)} rows, ids {bad[:8].tolist()}",
            "train with a lower learning rate or in float32",
        )
    return rows
