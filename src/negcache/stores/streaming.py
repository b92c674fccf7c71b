"""The negative cache of a stream: the items that came last, with what they are encoded from."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from negcache.distributed import Mesh
from negcache.errors import InputError
from negcache.interfaces import Observer, RefreshPolicy
from negcache.ops.shards import Shard
from negcache.shapes import Bool, Float, Int, Tensor
from negcache.stores.arrivals import (
    Arrivals,
    check_arriving,
    check_room,
    check_settings,
    check_weights,
    gathered_ids,
    last_of_each,
)
from negcache.stores.feature_ring import FeatureRing
from negcache.stores.feature_rows import Features, from_rows, some
from negcache.stores.observers import Observers
from negcache.stores.refresh import Oldest
from negcache.stores.ring import Ring
from negcache.stores.row_memory import QuantizedChunks
from negcache.stores.tables import check_dim, make_table


class StreamingCache:
    """The last S distinct items of a stream, each with its embedding and its features.

    It is store and corpus at once: ``SoftmaxLoss(item_tower, cache, sampler, score)``. Before each
    step say what has come, ``cache.receive(ids, features)``: the batch's positives, and perhaps
    items without queries. Positives get their slot as the step encodes them; the others are encoded
    at the end of the step. No slot is a negative before it has been written. An item that comes
    again keeps its slot, and counts as new. Source: Lindgren et al., NeurIPS 2021, streaming.

    Among several processes each has the embeddings of its share of the slots; all of them have ids
    and features, and receive what one receives.

    Args:
        size: S.
        dim: D, as the towers give it.
        refresh: fraction of the rows that is encoded anew after each optimizer step, those written
            longest ago; 0: none; or a policy.
        eviction: who makes room: "fifo", the item that came longest ago; or
            "least_recently_refreshed", where a row that was drawn and encoded counts as new.
        row_weight: how many items a row stands for. "none": itself, as in the public code.
            "uniform": ``num_items / rows``, where all items are as likely to come. "dedup":
            ``1 / (1 - (1 - pi)^H)``, pi the item's share of all arrivals, H how many came since
            the item that left last. "popularity": ``seen / (S pi)``, each of the last S arrivals
            counted, other rows not. Sums over rows are then unbiased for the items that come.
        num_items: how many there are, for "uniform".
        dtype: of the embeddings.
        device: where they live; features stay on the host.
        path: of a file to keep the embeddings in, on the host; see ``docs/large_tables.md``.
        mesh: the processes that hold the rows; None: those that train together now.

    Examples:
        >>> cache = StreamingCache(size=256, dim=4)
        >>> cache.receive(torch.tensor([7, 2**60]), torch.ones(2, 3))
        >>> cache[torch.tensor([2**60])].shape
        torch.Size([1, 3])
    """

    num_items = sys.maxsize
    is_live = False
    reencoder = None

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        refresh: float | RefreshPolicy = 0.01,
        eviction: str = "fifo",
        row_weight: str = "none",
        num_items: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        path: Path | str | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        check_settings(size, eviction)
        check_weights(row_weight, num_items, eviction)
        self.refresh = Oldest(refresh) if isinstance(refresh, float | int) else refresh
        self.eviction, self.row_weight = eviction, row_weight
        self.population = num_items or sys.maxsize
        self.shard = Shard.of(Mesh.now() if mesh is None else mesh, size)
        self.table = make_table(self.shard, dim, dtype, device, path)
        self.ring, self.features = Ring(size, device), FeatureRing(size)
        self.arrivals = Arrivals(row_weight, size, device)
        self.observers, self.clock, self.refreshing = Observers(), 0, False
        self._weights: Tensor | None = None  # until what is in the slots changes, or more counts

    def __len__(self) -> int:
        """Ids are below this."""
        return sys.maxsize

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> Features:
        """Features of items that have a slot, or wait for one."""
        unknown = ~self.knows(ids)
        if bool(unknown.any()):
            raise InputError(
                "items that have come and not left",
                f"{int(unknown.sum())} others, the first of id {int(ids[unknown.cpu()][0])}",
                "cache.receive(ids, features) of the batch's positives before the loss",
            )
        return from_rows(self.features.of(*self._where(ids)), self.features.form)

    @torch.no_grad()
    def receive(self, ids: Int[Tensor, "M"], features: Features) -> None:
        """These items come next in the stream; one may be there several times.

        Args:
            ids: your own, from 0 to 2^63 - 2.
            features: what the item tower takes of them, row by row: a tensor, or tensors by name.

        Raises:
            InputError: other shapes than before, an item with other features than before, or more
                new items in a step than there are slots.
        """
        check_arriving(ids)
        mesh = self.shard.mesh
        rows = self.features.admit(ids, features, mesh)
        every = gathered_ids(ids, mesh).to(self.device)
        last = last_of_each(every)
        ids, when, rows = every[last], self.arrivals.position + last, some(rows, last)
        slots, places = self._where(ids)
        new = (slots < 0) & (places < 0)
        self.features.check_same(ids, rows, slots, places)
        check_room(int(new.sum()) + len(self.features.waiting), len(self.ring))
        self._settle()
        self.arrivals.come(every)
        self.ring.touch(slots[slots >= 0], when[slots >= 0])
        self.features.again(places[places >= 0], when[places >= 0])
        self.features.wait(ids[new], when[new], some(rows, new))

    def knows(self, ids: Int[Tensor, "M"]) -> Bool[Tensor, "M"]:
        """Which items have a slot, or wait for one."""
        slots, places = self._where(ids)
        return (slots >= 0) | (places >= 0)

    @property
    def some_id(self) -> int:
        """Its features are here, where any are."""
        return int(self.ring.held.max())

    @property
    def device(self) -> torch.device:
        """Where the embeddings live."""
        return self.ring.held.device

    @property
    def num_rows(self) -> int:
        return self.shard.size

    @property
    def coverage(self) -> float:
        """Rows for each item where all are as likely to be there; 1 where rows have weights."""
        if self.row_weight != "uniform":
            return 1.0
        return min(1.0, max(1, int(self.ring.occupied.sum())) / self.population)

    @property
    def log_weights(self) -> Float[Tensor, "S"] | None:
        """log of how many items each row stands for; None: as ``coverage`` says."""
        if self._weights is None and self.arrivals.has_counts:
            self._weights = self.arrivals.log_weights(self.ring)[self.shard.bounds]
        return self._weights

    @property
    def valid(self) -> Bool[Tensor, "S"]:
        """Whether the row has been written since its item came."""
        return self.table.valid

    def slots(self, ids: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self.shard.local(self.ring.slots(ids))

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self.ring.held[slots + self.shard.first]

    def missing(self) -> Int[Tensor, "R"]:
        """Items with a slot and no row; a stream begins with none."""
        held = self.ring.held[self.shard.bounds]
        return held[(held >= 0) & ~self.valid]

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        return self.table.rows.chunks(size)

    @property
    def quantized(self) -> QuantizedChunks | None:
        return self.table.rows.quantized

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        return self.table.rows.read(slots)

    @torch.no_grad()
    def write(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Remember fresh rows of distinct items; those that wait get their slots."""
        check_dim(rows, self.table.dim)
        slots, waits = self._where(ids)
        fresh = slots >= 0
        if not (self.refresh.takes_training_rows or self.refreshing):
            fresh &= ~self.table.valid[self.shard.local(slots).clamp_min(0)]
        if self.eviction != "fifo" and not self.refreshing:
            self.ring.touch(slots[slots >= 0], self.arrivals.position)
        self._store(slots, rows, fresh)
        new = (waits >= 0).nonzero().squeeze(1)
        new = new[waits[new].argsort()]
        if len(new):
            self._store(self._place(waits[new]), rows[new], waits[new] >= 0)

    @torch.no_grad()
    def plan(self) -> Int[Tensor, "R"]:
        """Items that came without a query, then those written longest ago, of slots here."""
        waiting = self.features.waiting.to(self.device)
        leaving = self.ring.leaving(len(waiting))
        arriving = waiting[self.shard.local(leaving) >= 0]
        slots = self.refresh.plan(self.table.written, self.clock, self.shard)
        slots = slots[self.valid[slots] & ~torch.isin(slots + self.shard.first, leaving)]
        return torch.cat([self.missing(), arriving, self.ids(slots)])

    @torch.no_grad()
    def commit(self) -> None:
        """Items that wait get their slots; until they are written they are no negatives."""
        self.refreshing = True
        if len(self.features.waiting):
            self._place(torch.arange(len(self.features.waiting)))

    def step(self) -> None:
        """One optimizer step has passed."""
        self.clock, self.refreshing = self.clock + 1, False

    @torch.no_grad()
    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """These items are negatives no more; they may come again, with other features."""
        slots = self.ring.slots(ids)
        self._let_go(slots[slots >= 0])
        self.ring.clear(slots[slots >= 0])
        self._weights = None

    def ages(self) -> Int[Tensor, "S"]:
        """Steps since each row was last written; rows never written are older than the clock."""
        return self.clock - self.table.written

    def observe(self, observer: Observer, name: str | None = None) -> None:
        """Tell it of every change, as long as somebody holds it; its state is saved with this."""
        self.observers.add(observer, name)

    def state_dict(self) -> dict[str, Any]:
        own: dict[str, Any] = {"clock": self.clock, "refreshing": self.refreshing}
        own |= {each: getattr(self, each).state_dict() for each in ("ring", "features", "arrivals")}
        return self.table.state_dict() | own | self.observers.state_dict(self.shard)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.table.load_state_dict(state)
        for name in ("ring", "features", "arrivals"):
            getattr(self, name).load_state_dict(state[name])
        self.clock, self.refreshing, self._weights = state["clock"], state["refreshing"], None
        self.observers.load_state_dict(state, self.shard)

    def _where(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The slot of each item, and its place among those that wait; -1: it has none."""
        return self.ring.slots(ids := ids.to(self.device)), self.features.where_waiting(ids)

    def _place(self, places: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        """Slots of the items that wait there: those of the items that leave."""
        ids, when = (each.to(self.device) for each in self.features.arrived(places.cpu()))
        slots = self.ring.leaving(len(ids))
        self.arrivals.left = max(self.arrivals.left, int(self.ring.touched[slots].max()))
        self._let_go(slots)
        self.ring.put(slots, ids, when)
        self.features.settle(places.cpu(), slots)
        self._settle()
        return slots

    def _settle(self) -> None:
        """Other items are in the slots, or what came has its slots."""
        self._weights = None
        if not len(self.features.waiting):
            self.arrivals.settle()

    def _let_go(self, slots: Int[Tensor, "M"]) -> None:
        """The rows of these slots are no negatives any more."""
        here = self.shard.local(slots)
        here = here[here >= 0]
        with self.observers.change(self, here):
            self.table.let_go(here)

    def _store(self, slots: Tensor, rows: Tensor, wanted: Tensor) -> None:
        """Write those that are wanted, of slots that are here."""
        here = self.shard.local(slots)
        wanted = wanted & (here >= 0)
        with self.observers.change(self, here[wanted]):
            self.table.write(here[wanted], rows[wanted], self.clock)
