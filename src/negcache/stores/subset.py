"""Rows of some of the items only: a uniform subset that moves on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from negcache.distributed import Mesh
from negcache.errors import InputError
from negcache.interfaces import Observer, RefreshPolicy
from negcache.ops.shards import Shard
from negcache.shapes import Bool, Float, Int, Tensor
from negcache.stores.observers import Observers
from negcache.stores.refresh import Oldest
from negcache.stores.row_memory import QuantizedChunks
from negcache.stores.tables import check_dim, make_table


class SubsetCache:
    """A uniformly random subset of the corpus, S rows, of which a fraction moves on each step.

    Each row stands for N / S items: draws get weight ``-log(m q) - log(S / N)``, unbiased over
    draw and subset. The rows that entered first leave first (first in, first out), whatever they
    score, and uniformly drawn items take their place: were drawn rows to stay longer, membership
    would depend on the scores and the weight would be wrong. Among several processes each has the
    embeddings of its share of the rows; which items are held all of them know (16 N bytes at most).
    Source: methods of row weights in Lindgren et al. 2021, with lambda = S / N.

    Args:
        num_items: N.
        dim: D, as the towers give it.
        size: rows held, S.
        refresh: fraction of the rows that moves on each optimizer step; or a policy:
            ``stores.Snapshot(every)`` takes a new pool as a whole.
        dtype: of the rows.
        device: where everything lives.
        path: of a file to keep the rows in, on the host; see ``docs/large_tables.md``.
        seed: of the subset; the same on all processes.
        mesh: the processes that hold the rows, each its share; None: those that train together
            now, ``Mesh.now()``.
    """

    is_live = False
    log_weights = None
    reencoder = None

    def __init__(
        self,
        num_items: int,
        dim: int,
        size: int,
        *,
        refresh: float | RefreshPolicy = 0.01,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        path: Path | str | None = None,
        seed: int = 0,
        mesh: Mesh | None = None,
    ) -> None:
        if not 2 <= size <= num_items:
            raise InputError(
                f"a size from 2 to the {num_items} items", f"{size}", "choose one in between"
            )
        self.refresh = Oldest(refresh) if isinstance(refresh, float | int) else refresh
        self.num_items, self.clock, self.refreshing = num_items, 0, False
        self.observers, self.generator = Observers(), torch.Generator().manual_seed(seed)
        self.held = torch.randperm(num_items, generator=self.generator)[:size].to(device)
        self.place = torch.full((num_items,), -1, dtype=torch.int64, device=device)
        self.place[self.held] = torch.arange(size, device=device)
        self.shard = Shard.of(Mesh.now() if mesh is None else mesh, size)
        self.table = make_table(self.shard, dim, dtype, device, path)
        self.entered = torch.zeros(size, dtype=torch.int64, device=device)
        self._planned: tuple[int, tuple[Tensor, Tensor, Tensor]] | None = None

    @property
    def num_rows(self) -> int:
        return self.shard.size

    @property
    def coverage(self) -> float:
        return self.shard.total / self.num_items

    @property
    def valid(self) -> Bool[Tensor, "S"]:
        return self.table.valid

    def missing(self) -> Int[Tensor, "R"]:
        return self.held[self.shard.bounds][~self.valid]

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        return self.table.rows.chunks(size)

    @property
    def quantized(self) -> QuantizedChunks | None:
        """Blocks of rows that are kept as int8; None: they are not."""
        return self.table.rows.quantized

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        return self.table.rows.read(slots)

    def slots(self, ids: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self.shard.local(self.place[ids])

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self.held[slots + self.shard.first]

    @torch.no_grad()
    def write(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Remember fresh rows of distinct items; items outside the subset are passed over."""
        check_dim(rows, self.table.dim)
        slots = self.slots(ids)
        kept = slots >= 0
        if not (self.refresh.takes_training_rows or self.refreshing):
            kept &= ~self.valid[slots.clamp_min(0)]
        with self.observers.change(self, slots[kept]):
            self.table.write(slots[kept], rows[kept], self.clock)

    def plan(self) -> Int[Tensor, "R"]:
        """The items that take the place of the rows that entered first; those of rows here."""
        slots, new, _ = self._next()
        return new[self.shard.local(slots) >= 0]

    def commit(self) -> None:
        """Let those rows go; until the new items are written they are no negatives."""
        slots, new, after = self._next()
        self.generator.set_state(after)
        self._planned, self.refreshing = None, True
        here = self.shard.local(slots)
        here = here[here >= 0]
        with self.observers.change(self, here):
            self.place[self.held[slots]] = -1
            self.held[slots], self.place[new] = new, slots
            self.table.let_go(here)
            self.entered[slots] = self.clock + 1

    def step(self) -> None:
        """One optimizer step has passed."""
        self.clock, self.refreshing = self.clock + 1, False

    def observe(self, observer: Observer, name: str | None = None) -> None:
        """Tell it of every change, as long as somebody holds it; its state is saved with this."""
        self.observers.add(observer, name)

    def state_dict(self) -> dict[str, Any]:
        names = ("held", "entered", "clock", "refreshing")
        state = {name: getattr(self, name) for name in names} | self.table.state_dict()
        return (
            state
            | {"generator": self.generator.get_state()}
            | self.observers.state_dict(self.shard)
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.table.load_state_dict(state)
        self.held.copy_(state["held"])
        self.entered.copy_(state["entered"])
        self.place.fill_(-1)
        self.place[self.held] = torch.arange(len(self.held), device=self.held.device)
        self.clock, self.refreshing = int(state["clock"]), bool(state["refreshing"])
        self.observers.load_state_dict(state, self.shard)
        self.generator.set_state(state["generator"].cpu())
        self._planned = None

    def _next(self) -> tuple[Int[Tensor, "R"], Int[Tensor, "R"], Tensor]:
        """The slots that are let go, as many items of all that are not staying, the noise after.

        Costs a pass over ``place`` (8 N bytes), once a step.
        """
        if self._planned is None or self._planned[0] != self.clock:
            generator = self.generator.clone_state()
            self._planned = self.clock, (*self._choose(generator), generator.get_state())
        return self._planned[1]

    def _choose(self, generator: torch.Generator) -> tuple[Int[Tensor, "R"], Int[Tensor, "R"]]:
        slots = self.refresh.plan(self.entered, self.clock, Shard.whole(len(self.held)))
        if not len(slots):
            return slots, slots
        staying = self.place >= 0
        staying[self.held[slots]] = False
        outside = (~staying).nonzero().squeeze(1)
        chosen = torch.randperm(len(outside), generator=generator)[: len(slots)]
        return slots, outside[chosen.to(outside.device)]
