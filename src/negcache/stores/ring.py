"""Which item is in which slot of a ring, and which leaves next."""

from typing import Any

import torch

from negcache.shapes import Bool, Int, Tensor

NEVER = torch.iinfo(torch.int32).min
"""When an empty slot was touched: empty slots are filled before any item leaves."""


class Ring:
    """S slots of one item each; the items that were touched longest ago leave first.

    Items may have any ids from 0 to 2^63 - 1. Lookups cost O(log S), changes O(S).

    Args:
        size: S.
        device: of all.

    Attributes:
        held: int64 [S], the item in each slot, -1: none.
        touched: int64 [S], when each came, or came again, by any count; ``NEVER``: empty.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        self.held = torch.full((size,), -1, dtype=torch.int64, device=device)
        self.touched = torch.full((size,), NEVER, dtype=torch.int64, device=device)
        self._index()

    def __len__(self) -> int:
        return len(self.held)

    @property
    def occupied(self) -> Bool[Tensor, "S"]:
        return self.held >= 0

    def slots(self, ids: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The slot of each item; -1 where it has none."""
        place = torch.searchsorted(self._ordered, ids.contiguous()).clamp_(max=len(self) - 1)
        return self._order[place].where((self._ordered[place] == ids) & (ids >= 0), -1)

    def leaving(self, count: int) -> Int[Tensor, "c"]:
        """The slots touched longest ago, ties by the smaller slot: empty ones first."""
        slots = torch.arange(len(self), device=self.held.device)
        return (self.touched * len(self) + slots).topk(count, largest=False).indices

    def touch(self, slots: Int[Tensor, "M"], when: Tensor | int) -> None:
        """These items came again, or count as if they had."""
        self.touched[slots] = when

    def put(self, slots: Int[Tensor, "M"], ids: Int[Tensor, "M"], when: Tensor | int) -> None:
        """Distinct new items take the place of whatever is in these slots."""
        self.held[slots], self.touched[slots] = ids, when
        self._index()

    def clear(self, slots: Int[Tensor, "M"]) -> None:
        """Nothing is in these slots any more."""
        self.put(slots, torch.full_like(slots, -1), NEVER)

    def state_dict(self) -> dict[str, Any]:
        return {"held": self.held, "touched": self.touched}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.held.copy_(state["held"])
        self.touched.copy_(state["touched"])
        self._index()

    def _index(self) -> None:
        self._ordered, self._order = self.held.sort()
