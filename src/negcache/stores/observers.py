"""Those who follow the rows of a store: named, and held by somebody else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

from negcache.interfaces import Observer, Store
from negcache.messages import RowChange
from negcache.ops.shards import Shard
from negcache.shapes import Int, Tensor


class Observers:
    """Tells every observer of every change of the rows, and keeps their state by name.

    Observers are held weakly: an index that nobody uses any more is no longer told.
    """

    def __init__(self) -> None:
        self._by_name: WeakValueDictionary[str, Observer] = WeakValueDictionary()

    def __getstate__(self) -> dict[str, Observer]:
        """A copy tells the copies, held by whoever holds them there."""
        return dict(self._by_name)

    def __setstate__(self, state: dict[str, Observer]) -> None:
        self._by_name = WeakValueDictionary(state)

    def __bool__(self) -> bool:
        return bool(self._by_name)

    @property
    def names(self) -> list[str]:
        """Of those that are held."""
        return sorted(self._by_name)

    def add(self, observer: Observer, name: str | None = None) -> None:
        """Take a name; a second one of it gets a number. One that is here already keeps its own."""
        if any(each is observer for each in self._by_name.values()):
            return
        name = type(observer).__name__ if name is None else name
        taken, number = set(self._by_name), 2
        wanted = name
        while wanted in taken:
            wanted, number = f"{name}-{number}", number + 1
        self._by_name[wanted] = observer

    @contextmanager
    def change(self, store: Store, slots: Int[Tensor, "M"]) -> Iterator[None]:
        """Around a block of code that writes these rows, or lets them go."""
        if not self or not len(slots):
            yield
            return
        old, was_valid = store.rows(slots), store.valid[slots]
        yield
        self.tell(RowChange(slots, old, was_valid, store.rows(slots), store.valid[slots]))

    def tell(self, change: RowChange) -> None:
        for observer in list(self._by_name.values()):
            observer.rows_changed(change)

    def invalidate(self) -> None:
        """The rows have been replaced as a whole."""
        for observer in list(self._by_name.values()):
            observer.invalidate()

    def state_dict(self, shard: Shard) -> dict[str, Any]:
        """Empty where nobody observes: a store's state is then its own alone."""
        states = {
            name: {"kind": type(observer).__name__, "state": observer.state_dict()}
            for name, observer in self._by_name.items()
        }
        return {"observers": {shard.name: states}} if states else {}

    def load_state_dict(self, state: dict[str, Any], shard: Shard) -> None:
        """Each takes its own; one that was not saved, or of another kind, starts anew.

        So do all where the rows were dealt out in another way.
        """
        saved = state.get("observers", {}).get(shard.name, {})
        for name, observer in list(self._by_name.items()):
            own = saved.get(name)
            if own is not None and own["kind"] == type(observer).__name__:
                observer.load_state_dict(own["state"])
            else:
                observer.invalidate()
