"""Small towers that train on two cores."""

from typing import NamedTuple

import torch
from torch import nn

from negcache.shapes import Float, Int, Tensor


class Bags(NamedTuple):
    """Ragged texts laid end to end, as ``torch.nn.EmbeddingBag`` takes them.

    Attributes:
        tokens: token ids of all texts, one text after the other.
        starts: where each text begins; a text without tokens is an empty bag.
    """

    tokens: Int[Tensor, "T"]
    starts: Int[Tensor, "B"]

    def to(self, device: torch.device | str) -> "Bags":
        return Bags(self.tokens.to(device), self.starts.to(device))


class StaticTower(nn.Module):
    """Mean of token vectors, then a linear map: a bag of subwords that trains on two cores.

    Args:
        vocab_size: size of the tokenizer's vocabulary.
        dim: output dimensions D.
        width: dimensions of a token vector; ``dim`` when None.
    """

    def __init__(self, vocab_size: int, dim: int, width: int | None = None) -> None:
        super().__init__()
        width = width or dim
        self.tokens = nn.EmbeddingBag(vocab_size, width, mode="mean")
        self.out = nn.Linear(width, dim)
        nn.init.normal_(self.tokens.weight, std=width**-0.5)

    def forward(self, texts: Bags) -> Float[Tensor, "B D"]:
        return self.out(self.tokens(texts.tokens, texts.starts))


class IdTable(nn.Module):
    """A free vector per id: users, items or classes without features.

    Args:
        num_items: ids run from 0 to ``num_items - 1``.
        dim: output dimensions D.
    """

    def __init__(self, num_items: int, dim: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(num_items, dim)
        nn.init.normal_(self.rows.weight, std=dim**-0.5)

    def forward(self, ids: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        return self.rows(ids)
