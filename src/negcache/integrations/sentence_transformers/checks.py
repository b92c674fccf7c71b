"""What a ``CorpusSoftmaxLoss`` refuses, before anything is encoded."""

import math
from typing import Any

from sentence_transformers import SentenceTransformer, SparseEncoder
from torch import nn

from negcache.errors import InputError
from negcache.integrations.sentence_transformers.pairs import CorpusPairs
from negcache.interfaces import RefreshPolicy, Sampler
from negcache.shapes import Tensor
from negcache.stores.refresh import Oldest


def dense(model: nn.Module) -> SentenceTransformer:
    """The model, if it is one of those. Raises InputError."""
    if isinstance(model, SparseEncoder) or not isinstance(model, SentenceTransformer):
        raise InputError(
            "a SentenceTransformer, which embeds queries and items densely",
            type(model).__name__,
            "a CrossEncoder has no embeddings to store, and sparse ones are not built",
        )
    return model


def check_settings(pairs: Any, scale: Any, rho: Any, prompt: Any) -> None:
    """What the arguments must be; those of the draws apart. Raises InputError."""
    if not isinstance(pairs, CorpusPairs):
        raise InputError(
            "pairs of corpus_pairs",
            type(pairs).__name__,
            "CorpusSoftmaxLoss(model, corpus_pairs(dataset, corpus))",
        )
    if not isinstance(scale, float | int) or not 0 < scale < math.inf:
        raise InputError("scale > 0, finite", f"{scale}", "20 suits cosines")
    if isinstance(rho, float | int):
        Oldest(rho)
    elif rho is not None and (isinstance(rho, type) or not isinstance(rho, RefreshPolicy)):
        raise InputError(
            "rho between 0 and 1, or a refresh policy", f"{rho}", "such as stores.Snapshot(500)"
        )
    if not isinstance(prompt, str | None):
        raise InputError("prompt as a text", type(prompt).__name__, 'such as "passage: "')


def check_draws(sampler: Any, rho: Any, seed: int) -> None:
    """Settings of draws, and none without an effect. Raises InputError."""
    if seed < 0:
        raise InputError("a seed of 0 or more", f"{seed}", "any whole number from 0 on")
    if sampler == "auto":
        if not isinstance(rho, float | int | None):
            raise InputError(
                'a number as rho with sampler="auto", which fills a store when it pays',
                type(rho).__name__,
                "say the policy to a store of your own: sampler=lambda store: "
                "negcache.SharedDraws(negcache.CachedSoftmax(store, 1))",
            )
    elif not callable(sampler):
        check_sampler(sampler)
        check_no_rho(rho)


def check_sampler(sampler: Any) -> None:
    """Raises InputError."""
    if not isinstance(sampler, Sampler):
        raise InputError(
            'a sampler, a function that makes one from the store, or "auto"',
            repr(sampler) if isinstance(sampler, str) else type(sampler).__name__,
            "sampler=lambda store: negcache.CachedRest(store, 64)",
        )


def check_no_rho(rho: Any) -> None:
    """None is said where no store heeds it. Raises InputError."""
    if rho is not None:
        raise InputError(
            "rho for the store that the loss makes",
            f"rho={rho} and a sampler that does not read it",
            "leave rho out and say refresh= to your store, or pass a function of the loss' store",
        )


def check_one_column(features: list[Any]) -> Any:
    """The queries, if they are all there is. Raises InputError."""
    if len(features) != 1:
        raise InputError(
            "one column of texts, the queries",
            f"{len(features)}",
            "train and evaluate on pairs.dataset as it is: items are encoded from the corpus",
        )
    return features[0]


def check_labels(labels: Tensor | None, tag: int) -> Tensor:
    """The labels, if they are those of the pairs. Raises InputError."""
    if labels is None or labels.ndim != 2 or not bool((labels[:, 0] == tag).all()):
        raise InputError(
            "labels of the pairs that the loss was made with",
            "none" if labels is None else f"others, of shape {tuple(labels.shape)}",
            "train and evaluate on pairs.dataset; for several splits give corpus_pairs a "
            "DatasetDict of them",
        )
    return labels


def check_unwrapped(model: nn.Module) -> None:
    """Raises InputError where another loss has its hand in the model."""
    if type(model.forward).__name__ == "ForwardDecorator":
        raise InputError(
            "CorpusSoftmaxLoss by itself",
            "MatryoshkaLoss or AdaptiveLayerLoss around it",
            "leave it out: it would score other items than those that were drawn",
        )


def check_followed(followed: bool) -> None:
    """Someone steps, refreshes and saves a loss that trains. Raises InputError."""
    if not followed:
        raise InputError(
            "a CorpusSoftmaxLoss that follows the optimizer which trains it",
            "a training pass without: its store would grow old, and no checkpoint would hold it",
            "give the trainer callbacks=[loss.callback()], of this very loss; in a loop of your "
            "own, say loss.softmax.step_with(optimizer)",
        )
