"""Fresh rows of chosen items, gathered as they come: what a refresh waits for, and what is held."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from negcache.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class Held:
    """What a low-rank cache holds at most.

    Args:
        rows: embeddings at full dimension on the training step's device: landmarks, or a sample.
        on_device: bytes there: these rows, the basis, the re-encoder, two flags for each item.
        coordinates: bytes of the table, in ordinary memory or in its file.
    """

    rows: int
    on_device: int
    coordinates: int


@dataclass(frozen=True)
class Gathered:
    """A place for the row of each wanted item, written in any order.

    Args:
        ids: wanted, distinct, ascending.
        rows: what has come.
        there: which have.
    """

    ids: Int[Tensor, "s"]
    rows: Float[Tensor, "s D"]
    there: Bool[Tensor, "s"]

    @classmethod
    def of(cls, ids: Int[Tensor, "s"], dim: int, dtype: torch.dtype) -> "Gathered":
        """Nothing has come yet."""
        rows = torch.zeros(len(ids), dim, dtype=dtype, device=ids.device)
        return cls(ids.sort().values, rows, torch.zeros_like(ids, dtype=torch.bool))

    @property
    def outstanding(self) -> Int[Tensor, "_"]:
        return self.ids[~self.there]

    @property
    def complete(self) -> bool:
        return bool(self.there.all())

    def take(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Keep those that are wanted; of an item that comes again, the later row."""
        if not len(self.ids):
            return
        place = torch.searchsorted(self.ids, ids).clamp_(max=len(self.ids) - 1)
        wanted = self.ids[place] == ids
        self.rows[place[wanted]] = rows[wanted]
        self.there[place[wanted]] = True

    def without(self, ids: Int[Tensor, "M"]) -> "Gathered":
        """Some are no longer wanted."""
        keep = ~torch.isin(self.ids, ids)
        return Gathered(self.ids[keep], self.rows[keep], self.there[keep])

    def state_dict(self) -> dict[str, Any]:
        return {"ids": self.ids, "rows": self.rows, "there": self.there}

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> "Gathered":
        names = ("ids", "rows", "there")
        return cls(*(state[name].clone().to(device) for name in names))


class Refresh(NamedTuple):
    """What a refresh waits for: landmarks of a new basis, a sample to learn from.

    Args:
        whole: a full pass begins: no row is valid until it has been encoded anew.
    """

    landmarks: Gathered | None
    sample: Gathered | None
    whole: bool


def bytes_of(state: Any) -> int:
    """Bytes of all tensors in nested state."""
    if isinstance(state, Tensor):
        return state.nbytes
    values = state.values() if isinstance(state, dict) else state
    return sum(bytes_of(each) for each in values) if isinstance(state, dict | list) else 0
