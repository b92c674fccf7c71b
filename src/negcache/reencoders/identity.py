"""Nothing is learned: items look as they did."""

from typing import Any

import torch

from negcache.errors import InputError
from negcache.functional.nystrom import map_of_basis, mean_cosine
from negcache.shapes import Float, Tensor


class Identity:
    """The coordinates of the last full pass are taken for those of today: a stale cache.

    Attributes:
        map: [C, D], from coordinates to embeddings; empty before ``start``.
    """

    def __init__(self) -> None:
        self.map = torch.empty(0, 0)

    def start(self, basis: Float[Tensor, "D L"]) -> None:
        self.map = map_of_basis(basis)

    def fit(self, stale: Float[Tensor, "s C"], fresh: Float[Tensor, "s D"]) -> float:
        """Learns nothing; all rows are held out."""
        return mean_cosine(self.full(stale), fresh)

    def full(self, coordinates: Float[Tensor, "*n C"]) -> Float[Tensor, "*n D"]:
        return coordinates @ started(self.map)

    def queries(self, queries: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        return queries.to(self.map.dtype) @ started(self.map).T

    def items(self, coordinates: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C"]:
        return coordinates

    def state_dict(self) -> dict[str, Any]:
        return {"map": self.map}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.map = state["map"].clone().to(self.map.device)


def started(map: Tensor) -> Tensor:
    """The map itself; an error while there is none."""
    if not map.numel():
        raise InputError(
            "a re-encoder that knows its coordinates",
            "one that was never started",
            "fill the cache first, or call start(basis)",
        )
    return map
