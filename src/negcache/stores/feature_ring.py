"""Features of the items of a stream: of those that have a slot, and of those that wait for one."""

from typing import Any

import torch

from negcache.distributed import Mesh
from negcache.errors import InputError
from negcache.shapes import Int, Tensor
from negcache.stores.feature_rows import (
    Features,
    Rows,
    form_of,
    gathered,
    some,
    to_rows,
    widened,
    width_of,
)


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
        self.size, self.form = size, ""
        self.rows: Rows = {}
        self.new: Rows = {}
        self.waiting = torch.empty(0, dtype=torch.int64)
        self.when = torch.empty(0, dtype=torch.int64)

    def admit(self, ids: Int[Tensor, "M"], features: Features, mesh: Mesh) -> Rows:
        """Features by name, of all processes.

        Raises:
            InputError: they do not fit the ids, or those that came before.
        """
        form = form_of(features)
        rows = to_rows(features)
        wrong = {name: len(each) for name, each in rows.items() if len(each) != len(ids)}
        if wrong or not rows:
            raise InputError(
                f"features of {len(ids)} items, one row for each id", f"{wrong}", "pass as many"
            )
        if self.rows and _words(self.form, self.rows) != _words(form, rows):
            raise InputError(
                f"features as those that came before, {_words(self.form, self.rows)}",
                _words(form, rows),
                "pad all batches to the same shape, with the same names and dtypes",
            )
        self.form, found = form, gathered(rows, form, mesh, len(ids))
        width = max(width_of(found, form), width_of(self.rows, form))
        self.rows, self.new, found = (
            widened(each, form, width) for each in (self.rows, self.new, found)
        )
        return found

    def wait(self, ids: Int[Tensor, "M"], when: Int[Tensor, "M"], rows: Rows) -> None:
        """Keep what came until its item has a slot."""
        if not self.rows:
            self.rows = {n: each.new_zeros(self.size, *each.shape[1:]) for n, each in rows.items()}
            self.new = {name: each[:0] for name, each in rows.items()}
        self.waiting = torch.cat([self.waiting, ids.cpu()])
        self.when = torch.cat([self.when, when.cpu()])
        self.new = {name: torch.cat([self.new[name], rows[name]]) for name in self.new}

    def where_waiting(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        """The place of each id among those that wait; -1: it does not."""
        if not len(self.waiting):
            return torch.full_like(ids, -1)
        device, ids = ids.device, ids.cpu()
        ordered, order = self.waiting.sort()
        place = torch.searchsorted(ordered, ids.contiguous()).clamp_(max=len(ordered) - 1)
        return order[place].where(ordered[place] == ids, -1).to(device)

    def again(self, places: Int[Tensor, "M"], when: Int[Tensor, "M"]) -> None:
        """Items that wait have come once more."""
        self.when[places.cpu()] = when.cpu()

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

    def of(self, slots: Int[Tensor, "M"], places: Int[Tensor, "M"]) -> Rows:
        """Features of items in slots (>= 0), or else of those that wait.

        Raises InputError where nothing has come yet.
        """
        if not self.form:
            raise InputError("features to look up", "no item has come", "cache.receive some first")
        slots, places, found = slots.cpu(), places.cpu(), {}
        held = slots >= 0
        for name, rows in self.rows.items():
            both = rows[slots.clamp_min(0)]
            both[~held] = self.new[name][places[~held]]
            found[name] = both
        return found

    def check_same(
        self, ids: Int[Tensor, "M"], features: Rows, slots: Int[Tensor, "M"], places: Tensor
    ) -> None:
        """Refuse other features of an item than it came with before. Raises InputError."""
        known = (slots >= 0) | (places >= 0)
        if not bool(known.any()):
            return
        features, differ = some(features, known), torch.zeros(int(known.sum()), dtype=torch.bool)
        for name, rows in self.of(slots[known], places[known]).items():
            differ |= (rows != features[name]).view(len(rows), -1).any(dim=1)
        if bool(differ.any()):
            raise InputError(
                "the same features each time that an item comes",
                f"others for item {int(ids[known].cpu()[differ][0])}",
                "give a changed item an id of its own, or cache.remove(ids) first",
            )

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": dict(self.rows),
            "new": dict(self.new),
            "waiting": self.waiting,
            "when": self.when,
            "form": self.form,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.form = str(state["form"])
        self.waiting, self.when = state["waiting"].clone(), state["when"].clone()
        self.rows = {name: rows.clone() for name, rows in state["rows"].items()}
        self.new = {name: rows.clone() for name, rows in state["new"].items()}


def _words(form: str, rows: Rows) -> str:
    if form == "bags":
        return form
    told = [f"{name} {tuple(each.shape[1:])} {each.dtype}".strip() for name, each in rows.items()]
    return f"{form} of {', '.join(sorted(told))}"
