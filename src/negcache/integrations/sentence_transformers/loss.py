"""Softmax over a whole corpus as a loss of sentence-transformers."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from negcache.encoder import without_dropout
from negcache.integrations.sentence_transformers.checks import (
    check_draws,
    check_followed,
    check_labels,
    check_no_rho,
    check_one_column,
    check_sampler,
    check_settings,
    check_unwrapped,
    dense,
)
from negcache.integrations.sentence_transformers.pairs import CorpusPairs
from negcache.integrations.sentence_transformers.texts import (
    ITEM_PROMPTS,
    QUERY_PROMPTS,
    ItemTower,
    Texts,
    corpus_of,
    own_prompt,
)
from negcache.integrations.sentence_transformers.trainer_callback import CorpusSoftmaxCallback
from negcache.interfaces import RefreshPolicy, Sampler, Store
from negcache.losses import SoftmaxLoss
from negcache.samplers import Auto
from negcache.score import DotScore
from negcache.shapes import Float, Int, Tensor
from negcache.stores import DenseCache
from negcache.validation import check_mini_batches

RHO = 0.001
"""The fraction of the corpus that is encoded anew each step, where nobody says otherwise."""


class CorpusSoftmaxLoss(nn.Module):
    """Cross-entropy over all texts of a corpus, from a few encoded negatives a step.

    Takes the place of ``MultipleNegativesRankingLoss``: negatives come from the whole corpus, with
    the weights that make up for the choice; the batch's positives and mined negatives stand beside
    them. No known positive of a query is ever its negative. Source: Lindgren et al., NeurIPS 2021.

    Args:
        model: a SentenceTransformer, to be trained; queries and items share it, by its routes where
            it has some.
        pairs: of ``corpus_pairs``; train on its ``dataset``.
        scale: of the cosine, the inverse temperature.
        rho: the fraction of the corpus that is encoded anew each optimizer step, oldest first,
            where embeddings are stored; for a function also a refresh policy. None: as many items
            as the batch has queries; for a function .001, or nothing where it does not read the
            loss' store.
        mini_batch_size: encode at most so many items at a time, and once more in the backward pass,
            for memory; None: all at once.
        sampler: "auto": ``samplers.Auto``, as many uniform draws, or cached ones, as pay. Or a
            function that makes one from the store; or a sampler.
        prompt: put before each item; None: the model's own for documents.
        seed: of the draws.
        gather_across_devices: among several processes, negatives and the corpus are those of all;
            False is for samplers without a store.

    Raises:
        InputError: the model is no dense encoder, or an argument is out of range or has no effect.
    """

    def __init__(
        self,
        model: nn.Module,
        pairs: CorpusPairs,
        scale: float = 20.0,
        rho: float | RefreshPolicy | None = None,
        *,
        mini_batch_size: int | None = None,
        sampler: Sampler | Callable[[Store], Sampler] | str = "auto",
        prompt: str | None = None,
        seed: int = 0,
        gather_across_devices: bool = True,
    ) -> None:
        super().__init__()
        model = dense(model)
        check_settings(pairs, scale, rho, prompt)
        check_mini_batches(mini_batch_size, model)
        check_draws(sampler, rho, seed)
        self.pairs, self.scale, self.rho = pairs, scale, rho
        self.gather_across_devices = gather_across_devices
        self.prompt = own_prompt(model, ITEM_PROMPTS) if prompt is None else prompt
        self.query_prompt = own_prompt(model, QUERY_PROMPTS)
        tower, texts = ItemTower(model), corpus_of(pairs.corpus, model, self.prompt)
        dim = partial(_dimensions, tower, texts, model.device)
        self.softmax = SoftmaxLoss(
            tower,
            texts,
            self._sampler(sampler, dim, model.device),
            DotScore(1 / scale),
            known_positives=pairs.known_positives,
            mini_batch_size=mini_batch_size,
            gather_across_devices=gather_across_devices,
            seed=seed,
        )

    @property
    def model(self) -> nn.Module:
        """The model as the trainer has wrapped it; registered once, in the item tower."""
        tower = self.softmax.item_tower
        assert isinstance(tower, ItemTower)
        return tower.model

    def forward(
        self, sentence_features: Iterable[Mapping[str, Any]], labels: Int[Tensor, "B c"] | None
    ) -> Float[Tensor, ""]:
        """The mean loss of a batch (nats).

        Args:
            sentence_features: the tokenized queries, and nothing else.
            labels: as ``corpus_pairs`` made them.

        Raises:
            InputError: labels of other pairs, other columns than the queries, a loss around this
                one that cuts embeddings, or training without ``callback``.
        """
        check_unwrapped(self.model)
        labels = check_labels(labels, self.pairs.tag)
        queries = check_one_column(list(sentence_features))
        if self.training and torch.is_grad_enabled():
            check_followed(self.softmax.follows_optimizer)
        negatives = labels[:, 3:] if labels.shape[1] > 3 else None
        tower = self.softmax.item_tower
        assert isinstance(tower, ItemTower)
        return self.softmax(tower.embed(queries), labels[:, 2], labels[:, 1], negatives)

    def callback(self, resume_from: str | Path | None = None) -> CorpusSoftmaxCallback:
        """For the trainer's ``callbacks``: steps, saves and restores this loss.

        Args:
            resume_from: the checkpoint that is resumed, where it lies outside ``output_dir``.
        """
        return CorpusSoftmaxCallback(self, resume_from)

    def get_config_dict(self) -> dict[str, Any]:
        """For the model card."""
        sampler = self.softmax.sampler
        return {
            "scale": self.scale,
            "rho": self.rho
            if isinstance(self.rho, float | int | None)
            else type(self.rho).__name__,
            "mini_batch_size": self.softmax.mini_batch_size,
            "sampler": type(sampler).__name__,
            "num_items": len(self.pairs.corpus),
            "gather_across_devices": self.gather_across_devices,
        }

    @property
    def citation(self) -> str:
        """For the model card."""
        return """
@inproceedings{lindgren2021efficient,
    title={Efficient Training of Retrieval Models using Negative Cache},
    author={Erik Lindgren and Sashank Reddi and Ruiqi Guo and Sanjiv Kumar},
    booktitle={Advances in Neural Information Processing Systems},
    volume={34},
    year={2021}
}
"""

    def _sampler(
        self,
        sampler: Sampler | Callable[[Store], Sampler] | str,
        dim: Callable[[], int],
        device: torch.device,
    ) -> Sampler:
        count = len(self.pairs.corpus)
        if isinstance(sampler, str):
            rho = self.rho
            refreshed = math.ceil(rho * count) if isinstance(rho, float | int) else None
            shares = self.pairs.log_popularity.to(device)
            return Auto(range(count), log_popularity=shares, refreshed=refreshed)
        if not callable(sampler):
            return sampler
        refresh = RHO if self.rho is None else self.rho
        store = DenseCache(count, dim(), refresh=refresh, device=device)
        made = sampler(store)
        check_sampler(made)
        if made.store is store:
            self.rho = refresh
        else:
            check_no_rho(self.rho)
        return made


@torch.no_grad()
def _dimensions(tower: ItemTower, texts: Texts, device: torch.device) -> int:
    """Of an embedding, as the model gives them; by encoding one item."""
    with without_dropout(tower):
        return tower(texts.tokenize(texts.texts[:1]).to(device)).shape[1]
