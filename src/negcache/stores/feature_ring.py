"""Features of the items of a stream: of those that have a slot, and of those that wait for one."""

from typing import Any

import torch

from negcache.distributed import Mesh
from negcache.errors import InputError
from negcache.shapes import Bool, Int, Tensor

Features = Tensor | dict[str, Tensor]
"""What an item tower takes of some items: a tensor [M, ...], or several by name."""


class FeatureRing:
    """Tensors by name, a row for each slot, on the host; room is made at the first arrival.

    Args:
        size: S.

    Attributes:
        waiting: int64 [w], ids of the items that have no slot yet, distinct, in order of arrival.
        when: int64 [w], when each came last.
    """

    on_host = ("rows", "new", "waiting", "when")

    def __init__(self, size: int) -> None:
        self.size, self.named = size, False
        self.rows: dict[str, Tensor] = {}
        self.new: dict[str, Tensor] = {}
        self.waiting = torch.empty(0, dtype=torch.int64)
        self.when = torch.empty(0, dtype=torch.int64)

    def admit(self, ids: Int[Tensor, "M"], features: Features) -> dict[str, Tensor]:
        """Features by name. Raises InputError where they do not fit those that came before."""
        given = features if isinstance(features, dict) else {"": features}
        wrong = {name: len(rows) for name, rows in given.items() if len(rows) != len(ids)}
        if wrong or not given:
            raise InputError(
                f"features of {len(ids)} items, one row for each id", f"{wrong}", "pass as many"
            )
        got = {name: (tuple(rows.shape[1:]), rows.dtype) for name, rows in given.items()}
        want = {name: (tuple(rows.shape[1:]), rows.dtype) for name, rows in self.rows.items()}
        if self.rows and got != want:
            raise InputError(
                f"features as those that came before, {_words(want)}",
                _words(got),
                "pad all batches to the same shape, with the same names and dtypes",
            )
        return {name: rows.detach().cpu() for name, rows in given.items()}

    def wait(
        self, ids: Int[Tensor, "M"], when: Tensor, features: dict[str, Tensor], named: bool
    ) -> None:
        """Keep what came until its item has a slot."""
        if not self.rows:
            self.named = named
            self.rows = {
                name: rows.new_zeros(self.size, *rows.shape[1:]) for name, rows in features.items()
            }
            self.new = {name: rows[:0] for name, rows in features.items()}
        self.waiting = torch.cat([self.waiting, ids.cpu()])
        self.when = torch.cat([self.when, when.cpu()])
        self.new = {name: torch.cat([self.new[name], features[name]]) for name in self.new}

    def where_waiting(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        """The place of each id among those that wait; -1: it does not."""
        ids = ids.cpu()
        if not len(self.waiting):
            return torch.full_like(ids, -1)
        ordered, order = self.waiting.sort()
        place = torch.searchsorted(ordered, ids.contiguous()).clamp_(max=len(ordered) - 1)
        return order[place].where(ordered[place] == ids, -1)

    def again(self, places: Int[Tensor, "M"], when: Int[Tensor, "M"]) -> None:
        """Items that wait have come once more."""
        self.when[places] = when.cpu()

    def arrived(self, places: Int[Tensor, "M"]) -> tuple[Int[Tensor, "M"], Int[Tensor, "M"]]:
        """The items that wait there, and when they came."""
        return self.waiting[places], self.when[places]

    def settle(self, places: Int[Tensor, "M"], slots: Int[Tensor, "M"]) -> None:
        """The items that wait in these places have got these slots."""
        for name, rows in self.rows.items():
            rows[slots.cpu()] = self.new[name][places]
        left = torch.ones(len(self.waiting), dtype=torch.bool)
        left[places] = False
        self.waiting, self.when = self.waiting[left], self.when[left]
        self.new = {name: rows[left] for name, rows in self.new.items()}

    def of(self, slots: Int[Tensor, "M"], places: Int[Tensor, "M"]) -> dict[str, Tensor]:
        """Features of items in slots (>= 0), or else of those that wait."""
        slots, found = slots.cpu(), {}
        held = slots >= 0
        for name, rows in self.rows.items():
            both = rows[slots.clamp_min(0)]
            both[~held] = self.new[name][places[~held]]
            found[name] = both
        return found

    def differ(
        self, features: dict[str, Tensor], slots: Int[Tensor, "M"], places: Int[Tensor, "M"]
    ) -> Bool[Tensor, "M"]:
        """Which items came with other features before."""
        found = torch.zeros(len(slots), dtype=torch.bool)
        for name, rows in self.of(slots, places).items():
            found |= (rows != features[name]).view(len(rows), -1).any(dim=1)
        return found

    def shown(self, features: dict[str, Tensor]) -> Features:
        """As the item tower takes them: by name where they came by name."""
        return features if self.named else features[""]

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": dict(self.rows),
            "new": dict(self.new),
            "waiting": self.waiting,
            "when": self.when,
            "named": self.named,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.named = bool(state["named"])
        self.waiting, self.when = state["waiting"].clone(), state["when"].clone()
        self.rows = {name: rows.clone() for name, rows in state["rows"].items()}
        self.new = {name: rows.clone() for name, rows in state["new"].items()}


def _words(shapes: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> str:
    return ", ".join(
        f"{name or 'a tensor'} {shape} {dtype}" for name, (shape, dtype) in shapes.items()
    )


def gathered(features: dict[str, Tensor], mesh: Mesh, counts: list[int]) -> dict[str, Tensor]:
    """Those of all processes, one after the other."""
    return {
        name: mesh.gather(each.to(mesh.device), counts).cpu() for name, each in features.items()
    }
