"""A table that trains: its rows are read in place, nothing is ever stale."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from negcache.cache.listeners import Listeners
from negcache.errors import InputError
from negcache.protocols import Change, Listener
from negcache.shapes import Bool, Float, Int, Tensor


class LiveTable:
    """Class vectors or item embeddings as a cache whose rows are the parameters themselves.

    The training step writes nothing; what it encoded is remembered until the optimizer has stepped,
    and listeners are then told what the rows were and what they are now. Optimizers that move
    every row each step (dense Adam, momentum, weight decay) leave listeners behind on the others:
    use sparse gradients.

    Args:
        weight: the table [N, D].
        embed: what rows become before they are scored (``score.embed``); None: nothing.
    """

    coverage = 1.0

    def __init__(
        self, weight: Float[Tensor, "N D"], embed: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        if len(weight) < 2:
            raise InputError("at least 2 rows", f"{len(weight)}", "a softmax needs a negative")
        self.weight, self.embed, self.listeners = weight, embed, Listeners()
        self.touched: list[tuple[Tensor, Tensor]] = []
        self.seen = weight._version
        self.every_row = torch.ones(len(weight), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def num_items(self) -> int:
        return len(self.weight)

    @property
    def num_rows(self) -> int:
        return len(self.weight)

    @property
    def valid(self) -> Bool[Tensor, "N"]:
        self.every_row = self.every_row.to(self.weight.device)
        return self.every_row

    def slots(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        return ids

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return slots

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        for first in range(0, len(self.weight), size):
            yield first, self._shown(self.weight.detach()[first : first + size])

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        return self._shown(self.weight.detach().index_select(0, slots))

    def write(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Remember which rows the optimizer is about to move, and what they are."""
        if self.listeners.all:
            self.touched.append((ids, rows.detach()))

    def settle(self) -> None:
        """Tell the listeners, if the optimizer has stepped since the rows were remembered."""
        if self.touched and self.weight._version != self.seen:
            every = torch.cat([ids for ids, _ in self.touched])
            old = torch.cat([rows for _, rows in self.touched])
            ids, first = _first_of_each(every)
            valid = torch.ones_like(ids, dtype=torch.bool)
            change = Change(ids, old[first], valid, self.rows(ids), valid)
            for listener in self.listeners.all:
                listener.on_change(change)
            self.touched = []
        self.seen = self.weight._version

    def due(self) -> Int[Tensor, "R"]:
        """Nothing: no row is ever stale."""
        return torch.empty(0, dtype=torch.int64, device=self.weight.device)

    def tick(self) -> None:
        """One optimizer step has passed."""
        self.settle()

    def attach(self, listener: Listener) -> None:
        """Tell it of every change from now on, and keep its state with the table's."""
        self.listeners.all.append(listener)

    def state_dict(self) -> dict[str, Any]:
        """Of the listeners; the table itself is a parameter of its module."""
        self.settle()
        return self.listeners.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.touched, self.seen = [], self.weight._version
        self.listeners.load_state_dict(state)

    def _shown(self, rows: Tensor) -> Tensor:
        return rows if self.embed is None else self.embed(rows)


def _first_of_each(ids: Int[Tensor, "n"]) -> tuple[Int[Tensor, "M"], Int[Tensor, "M"]]:
    """The distinct ids, and where each comes first."""
    distinct, place = torch.unique(ids, return_inverse=True)
    order = torch.arange(len(ids), device=ids.device)
    first = torch.full_like(distinct, len(ids)).scatter_reduce_(0, place, order, "amin")
    return distinct, first
