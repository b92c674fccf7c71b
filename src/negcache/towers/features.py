"""Towers of rows that carry more than text: categorical side features, weighted bags."""

from typing import NamedTuple

import torch
from torch import nn

from negcache.shapes import Float, Int, Tensor


class WeightedBags(NamedTuple):
    """Sparse rows laid end to end, as ``torch.nn.EmbeddingBag`` takes them with weights.

    Attributes:
        tokens: feature ids of all rows, one row after the other.
        starts: where each row begins; a row without features is an empty bag.
        weights: the value of each feature.
    """

    tokens: Int[Tensor, "T"]
    starts: Int[Tensor, "B"]
    weights: Float[Tensor, "T"]

    def to(self, device: torch.device | str) -> "WeightedBags":
        return WeightedBags(*(part.to(device) for part in self))


class WeightedBagTower(nn.Module):
    """A sparse vector times a table, then a linear map: tf-idf rows in, embeddings out.

    Args:
        num_features: feature ids run from 0 to ``num_features - 1``.
        dim: output dimensions D.
        width: dimensions of a feature's vector; ``dim`` when None.
    """

    def __init__(self, num_features: int, dim: int, width: int | None = None) -> None:
        super().__init__()
        width = width or dim
        self.features = nn.EmbeddingBag(num_features, width, mode="sum")
        self.out = nn.Linear(width, dim)
        nn.init.normal_(self.features.weight, std=width**-0.5)

    def forward(self, rows: WeightedBags) -> Float[Tensor, "B D"]:
        summed = self.features(rows.tokens, rows.starts, per_sample_weights=rows.weights)
        return self.out(summed)


class FeatureTower(nn.Module):
    """A free vector per row plus one per category it has: users and items with side features.

    Takes what `negcache.data.Entities.inputs` gives: the number of the row, then codes of its
    categories. Code 0 stands for unknown and adds nothing, so a row without features is the plain
    `IdTable`, and a row that was never trained still has the vectors of its categories.

    Args:
        num_rows: row numbers run from 0 to ``num_rows - 1``.
        num_codes: codes run from 0 to ``num_codes - 1``; all categories share the numbering.
        dim: output dimensions D.
    """

    def __init__(self, num_rows: int, num_codes: int, dim: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(num_rows, dim)
        self.codes = nn.Embedding(num_codes, dim, padding_idx=0)
        nn.init.normal_(self.rows.weight, std=dim**-0.5)
        nn.init.normal_(self.codes.weight, std=dim**-0.5)
        with torch.no_grad():
            self.codes.weight[0] = 0

    def forward(self, inputs: Int[Tensor, "B _"]) -> Float[Tensor, "B D"]:
        return self.rows(inputs[:, 0]) + self.codes(inputs[:, 1:]).sum(dim=1)
