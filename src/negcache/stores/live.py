"""A table that trains: its rows are read in place, nothing is ever stale."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from negcache.errors import InputError
from negcache.interfaces import Observer
from negcache.messages import RowChange
from negcache.ops.shards import Shard
from negcache.shapes import Bool, Float, Int, Tensor
from negcache.stores.observers import Observers


class LiveTable:
    """Class vectors or item embeddings as a store whose rows are the parameters themselves.

    The training step writes nothing; what it looked up is remembered until the rows are seen to
    have moved, and observers are then told what they were and what they are. Other rows may move
    too: by optimizers of dense gradients (Adam, momentum, weight decay), by another use of the
    table, in another process. Nobody tells of these; ``renew_every`` bounds how long observers lag
    behind. After a change of the whole table call ``invalidate``.

    Args:
        table: a tensor [N, D], or a module with such a ``weight``, read anew each time.
        embed: what rows become before they are scored (``score.embed``); None: nothing.
        shard: which rows of a larger table these are, the others being those of other processes;
            None: all. Row 0 of ``table`` is then slot 0 and item ``shard.first``.
        renew_every: steps of the optimizer after which observers start anew from the rows as they
            are; None: never, since no other rows move than those looked up.
    """

    on_host = ("source", "every_row")  # its owner moves it; made anew where the table is
    coverage = 1.0
    log_weights = None
    quantized = None
    is_live = True
    clock = 0
    reencoder = None

    def __init__(
        self,
        table: Float[Tensor, "N D"] | nn.Module,
        embed: Callable[[Tensor], Tensor] | None = None,
        *,
        shard: Shard | None = None,
        renew_every: int | None = None,
    ) -> None:
        self.source, self.embed, self.observers = table, embed, Observers()
        self.dealt_out, self.renew_every, self.steps_seen = shard, renew_every, 0
        self.touched: list[tuple[Tensor, Tensor]] = []
        if len(self) < 2:
            raise InputError("at least 2 rows", f"{len(self)}", "a softmax needs a negative")
        if len(self.weight) != self.shard.size:
            raise InputError(
                f"the {self.shard.size} rows of {self.shard.name}",
                f"{len(self.weight)}",
                "give the table the rows of this process: shard.size of them",
            )
        self.every_row = torch.ones(0, dtype=torch.bool)

    @property
    def weight(self) -> Tensor:
        """The table as it is now."""
        found = self.source.weight if isinstance(self.source, nn.Module) else self.source
        assert isinstance(found, Tensor)
        return found

    def __len__(self) -> int:
        return self.shard.total

    @property
    def shard(self) -> Shard:
        """Which rows are here: all, unless it was said that they are dealt out."""
        return Shard.whole(len(self.weight)) if self.dealt_out is None else self.dealt_out

    @property
    def num_items(self) -> int:
        return self.shard.total

    @property
    def num_rows(self) -> int:
        return len(self.weight)

    @property
    def valid(self) -> Bool[Tensor, "S"]:
        """Every row is there; made anew where the table has come to another device or length."""
        size, device = self.num_rows, self.weight.device
        if len(self.every_row) != size or self.every_row.device != device:
            self.every_row = torch.ones(size, dtype=torch.bool, device=device)
        return self.every_row

    def slots(self, ids: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self.shard.local(ids)

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return slots + self.shard.first if self.shard.first else slots

    def missing(self) -> Int[Tensor, "R"]:
        """Nothing: every row is there."""
        return self.plan()

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        for first in range(0, len(self.weight), size):
            yield first, self._shown(self.weight.detach()[first : first + size])

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        return self._shown(self.weight.detach().index_select(0, slots))

    def write(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Remember which rows the optimizer is about to move, and what they are.

        Those that other processes hold are passed over.
        """
        if self.observers and self.weight.requires_grad:
            slots = self.slots(ids)
            slots = slots if slots is ids else slots[slots >= 0]
            self.touched.append((slots, self.rows(slots)))

    def flush(self) -> None:
        """Tell the observers which remembered rows have moved; if none has, wait on."""
        if not self.touched:
            return
        slots, old = _each_once(self.touched)
        new = self.rows(slots)
        moved = (old - new).abs_().amax(dim=1) != 0  # also where one is not a number
        self.touched = [] if moved.any() else [(slots, old)]
        if self.touched:
            return
        self.steps_seen += 1
        if self.renew_every and self.steps_seen % self.renew_every == 0:
            return self.observers.invalidate()
        if not moved.all():
            slots, old, new = slots[moved], old[moved], new[moved]
        valid = torch.ones_like(slots, dtype=torch.bool)
        self.observers.tell(RowChange(slots, old, valid, new, valid))

    def catch_up(self, steps: int) -> None:
        """So many steps have moved rows somewhere, of this process or of another."""
        renew = self.renew_every and steps // self.renew_every > self.steps_seen // self.renew_every
        self.steps_seen = steps
        if renew:
            self.invalidate()

    def invalidate(self) -> None:
        """The whole table has been replaced: observers start anew from the rows."""
        self.touched = []
        self.observers.invalidate()

    def plan(self) -> Int[Tensor, "R"]:
        """Nothing: no row is ever stale."""
        return torch.empty(0, dtype=torch.int64, device=self.weight.device)

    def commit(self) -> None:
        """There is no plan."""

    def step(self) -> None:
        """One optimizer step has passed."""
        self.flush()

    def observe(self, observer: Observer, name: str | None = None) -> None:
        """Tell it of every change, as long as somebody holds it; its state is saved with this."""
        self.observers.add(observer, name)

    def state_dict(self) -> dict[str, Any]:
        """Of the observers; the table itself is a parameter of its module."""
        self.flush()
        clock = {"steps_seen": {self.shard.name: self.steps_seen}} if self.renew_every else {}
        return self.observers.state_dict(self.shard) | clock

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.touched = []
        self.steps_seen = max(map(int, state.get("steps_seen", {}).values()), default=0)
        self.observers.load_state_dict(state, self.shard)

    def _shown(self, rows: Tensor) -> Tensor:
        return rows if self.embed is None else self.embed(rows)


def _each_once(touched: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All ids and their rows, as they were when each was first remembered."""
    if len(touched) == 1:
        return touched[0]
    ids = torch.cat([ids for ids, _ in touched])
    distinct, place = torch.unique(ids, return_inverse=True)
    order = torch.arange(len(ids), device=ids.device)
    first = torch.full_like(distinct, len(ids)).scatter_reduce_(0, place, order, "amin")
    return distinct, torch.cat([rows for _, rows in touched])[first]
