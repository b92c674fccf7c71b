"""Sequences of classes, the model of them, and who is asked what comes next."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import nn

from negcache.exclusion import Exclusion
from negcache.shapes import Float, Int, Tensor

DIM, LAYERS, HEADS = 64, 2, 2


class Asked(NamedTuple):
    """What came next, after all.

    Args:
        seen: sequences, 0 after their end.
        wanted: what came next in each.
        barred: what may not be found, one row a sequence.
    """

    seen: Int[Tensor, "Q T"]
    wanted: Int[Tensor, "Q"]
    barred: Exclusion


class Body(nn.Module):
    """A causal transformer, and vectors of the classes that may come next.

    Args:
        classes: N, of which 0 is none.
        length: T at most.
        dropout: while it trains.
        bias: of each class to begin with; None: none, and the vectors are those that it reads.
    """

    def __init__(
        self, classes: int, length: int, dropout: float, bias: Float[Tensor, "N"] | None
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(classes, DIM, padding_idx=0)
        self.places, self.dropout = nn.Parameter(0.02 * torch.randn(length, DIM)), dropout
        nn.init.normal_(self.items.weight[1:], std=0.02)
        self.outcomes: nn.Module = self.items
        if bias is not None:
            self.outcomes = nn.Linear(DIM, classes)
            nn.init.normal_(self.outcomes.weight, std=0.02)
            self.outcomes.bias.data.copy_(bias)
        layer = nn.TransformerEncoderLayer(
            DIM, HEADS, 4 * DIM, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(DIM)
        self.layers = nn.TransformerEncoder(layer, LAYERS, norm, enable_nested_tensor=False)

    def forward(self, seen: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        size = seen.shape[1]
        later = torch.ones(size, size, dtype=torch.bool).triu(1)
        rows = self.items(seen) + self.places[:size]
        rows = nn.functional.dropout(rows, self.dropout, self.training)
        return self.layers(rows, mask=later, is_causal=True)


@dataclass(frozen=True)
class NextClass:
    """A task.

    Args:
        rows: what is trained on, 0 after an end; each class is asked for after those before it.
        classes: N, numbered by falling count in training; 0 is none.
        asked: by split; "train" as well.
        dropout: of the model.
        tied: whether the model has one vector of a class, as in SASRec, or two of them and a bias.
    """

    rows: Int[Tensor, "n T1"]
    classes: int
    asked: dict[str, Asked]
    dropout: float
    tied: bool

    @property
    def items(self) -> range:
        """Their numbers."""
        return range(self.classes)

    @cached_property
    def counts(self) -> Int[Tensor, "N"]:
        """How often each class came next in training."""
        counts = torch.bincount(self.rows[:, 1:].flatten(), minlength=self.classes)
        counts[0] = 0
        return counts

    @property
    def tower(self) -> Callable[[], Body]:
        bias = None if self.tied else ((self.counts + 1) / self.counts.sum()).log()
        return lambda: Body(self.classes, self.rows.shape[1] - 1, self.dropout, bias)
