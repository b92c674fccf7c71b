"""Fresh rows of chosen items, gathered as they come; and what a low-rank cache holds."""

from dataclasses import dataclass
from typing import Any

import torch

from negcache.distributed import Mesh
from negcache.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class Held:
    """What a low-rank cache holds at most.

    Args:
        rows: embeddings at full dimension on the training step's device: landmarks, or a sample.
        on_device: bytes there: these rows, the basis, the re-encoder, two flags for each item.
        coordinates: bytes of the table, in ordinary memory or in its file.

    Among several processes this is what each holds: its share of the table and flags, and whole
    landmarks, sample, basis and re-encoder.
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
    def of(cls, ids: Int[Tensor, "s"], like: Float[Tensor, "D _"]) -> "Gathered":
        """Nothing has come yet.

        Args:
            ids: ascending.
            like: of the dtype and on the device of the rows.
        """
        rows = like.new_zeros(len(ids), len(like))
        return cls(ids.to(rows.device), rows, torch.zeros_like(rows[:, 0], dtype=torch.bool))

    @property
    def outstanding(self) -> Int[Tensor, "_"]:
        return self.ids[~self.there]

    @property
    def complete(self) -> bool:
        return bool(self.there.all())

    def to_come(self, mesh: Mesh) -> Int[Tensor, "_"]:
        """Those that this process has to encode, of those that have not come."""
        left = self.outstanding
        return left[mesh.part(len(left))]

    def take(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"], mesh: Mesh) -> None:
        """Keep those that are wanted, of all processes; of an item that comes again, the later.

        All processes take at the same time, and have the same.
        """
        if not len(self.ids):
            return
        wanted = torch.isin(ids, self.ids)
        (sizes,) = mesh.each(int(wanted.sum()))
        ids, rows = mesh.gather(ids[wanted], sizes), mesh.gather(rows[wanted], sizes)
        place = torch.searchsorted(self.ids, ids)
        self.rows[place] = rows
        self.there[place] = True

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


def bytes_of(state: Any) -> int:
    """Bytes of all tensors in nested state."""
    if isinstance(state, Tensor):
        return state.nbytes
    values = state.values() if isinstance(state, dict) else state
    return sum(bytes_of(each) for each in values) if isinstance(state, dict | list) else 0
