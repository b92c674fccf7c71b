"""Those who follow the rows of a cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from negcache.protocols import Change, Listener, Rows
from negcache.shapes import Int, Tensor


class Listeners:
    """Tells every listener of every change of the rows; holds their state."""

    def __init__(self) -> None:
        self.all: list[Listener] = []

    @contextmanager
    def change(self, rows: Rows, slots: Int[Tensor, "M"]) -> Iterator[None]:
        """Around a block of code that writes these rows, or lets them go."""
        if not self.all:
            yield
            return
        old, was_valid = rows.rows(slots), rows.valid[slots]
        yield
        change = Change(slots, old, was_valid, rows.rows(slots), rows.valid[slots])
        for listener in self.all:
            listener.on_change(change)

    def state_dict(self) -> dict[str, Any]:
        """Empty where nobody listens: a cache's state is then its own alone."""
        return {"listeners": [each.state_dict() for each in self.all]} if self.all else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Each takes its own; where as many were not saved, all start anew from the rows."""
        saved = state.get("listeners", [])
        if len(saved) != len(self.all):
            self.forget()
            return
        for listener, own in zip(self.all, saved, strict=True):
            listener.load_state_dict(own)

    def forget(self) -> None:
        """The rows have been replaced as a whole."""
        for listener in self.all:
            listener.forget()
