"""Those who follow the rows of a cache."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from negcache.protocols import Change, Listener, Rows
from negcache.shapes import Int, Tensor


class Listeners:
    """Tells every listener of every change of the rows; holds their state."""

    def __init__(self) -> None:
        self.all: list[Listener] = []

    @contextmanager
    def change(
        self, rows: Rows, slots: Int[Tensor, "M"], read: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[None]:
        """Around a block of code that writes these rows, or lets them go.

        Args:
            read: slots -> what listeners follow; None: the rows themselves.
        """
        if not self.all or not len(slots):
            yield
            return
        read = rows.rows if read is None else read
        old, was_valid = read(slots), rows.valid[slots]
        yield
        change = Change(slots, old, was_valid, read(slots), rows.valid[slots])
        for listener in self.all:
            listener.on_change(change)

    def state_dict(self) -> dict[str, Any]:
        """Empty where nobody listens: a cache's state is then its own alone."""
        if not self.all:
            return {}
        states = [each.state_dict() for each in self.all]
        return {"listeners": states, "listener_kinds": self._kinds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Each takes its own; one of another kind than was saved starts anew from the rows.

        Where as many were not saved, all start anew.
        """
        saved = state.get("listeners", [])
        if len(saved) != len(self.all):
            self.forget()
            return
        kinds = state.get("listener_kinds", self._kinds)
        for listener, own, kind, was in zip(self.all, saved, self._kinds, kinds, strict=True):
            if kind == was:
                listener.load_state_dict(own)
            else:
                listener.forget()

    def forget(self) -> None:
        """The rows have been replaced as a whole."""
        for listener in self.all:
            listener.forget()

    @property
    def _kinds(self) -> list[str]:
        return [type(each).__name__ for each in self.all]
