"""Several streaming caches as one: each has slots of its own, draws are from all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from negcache.errors import InputError
from negcache.interfaces import Observer
from negcache.messages import RowChange
from negcache.ops.interleaved import Interleaved
from negcache.shapes import Bool, Float, Int, Tensor
from negcache.stores.feature_rows import (
    Features,
    Rows,
    form_of,
    from_rows,
    some,
    to_rows,
    widened,
    width_of,
)
from negcache.stores.observers import Observers
from negcache.stores.streaming import StreamingCache

Parts = list[tuple[StreamingCache, Tensor]]
"""Caches, and which of some ids, by a mask, are theirs."""


class SideBySide:
    """Streams that do not push each other's items out: a store and a corpus, like each of them.

    An item that is in one cache stays there for as long as it is held, whichever stream brings it
    again: it has one row. Weights of rows add up over the caches, so streams of one population
    belong in one cache. Among several processes each has its share of the rows of every cache, all
    of them receive what one receives, and draws are those of one. Slots follow the caches in turn,
    part by part; see ``ops.interleaved``.
    Source: google-research/negative_cache, whose loss takes several caches.

    Args:
        caches: of as many dimensions, on one device, built by the same processes.

    Examples:
        >>> group = SideBySide([StreamingCache(4, dim=2), StreamingCache(8, dim=2)])
        >>> group.receive(torch.tensor([7, 9]), torch.ones(2, 3), into=1)
        >>> group.num_rows, group[torch.tensor([9])].shape
        (12, torch.Size([1, 3]))
    """

    is_live = False
    reencoder = None
    quantized = None
    coverage = 1.0

    def __init__(self, caches: Sequence[StreamingCache]) -> None:
        kinds = {(cache.table.dim, cache.device, cache.shard.mesh.size) for cache in caches}
        if len(kinds) != 1 or len({id(cache) for cache in caches}) < len(caches):
            raise InputError(
                "different caches, all of one dim and on one device",
                f"{len(caches)} of (dim, device, processes) {sorted(map(str, kinds))}",
                "build them alike",
            )
        self.caches = list(caches)
        self.num_items, self.observers = caches[0].num_items, Observers()
        self.order = Interleaved([cache.shard for cache in caches], caches[0].device)
        self.shard = self.order.shard
        self.relays: list[_Relay] = []

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> Features:
        """Features of items that have a slot, or wait for one."""
        parts = [(mine, cache[ids[mine]]) for cache, mine in self._owners(ids, 0) if mine.any()]
        if not len(ids):
            return next((each for each in self.caches if each.features.form), self.caches[0])[ids]
        if len(parts) == 1:
            return parts[0][1]
        form = form_of(parts[0][1])
        rows = [to_rows(features) for _, features in parts]
        width = max(width_of(each, form) for each in rows)
        order = torch.cat([mine.nonzero().squeeze(1) for mine, _ in parts]).argsort()
        return from_rows(_below([widened(each, form, width) for each in rows], order), form)

    def receive(self, ids: Int[Tensor, "M"], features: Features, into: int = 0) -> None:
        """These items come next in the stream of that cache; see ``StreamingCache.receive``."""
        rows, form, owners = to_rows(features), form_of(features), self._owners(ids, into)
        comes = torch.stack([mine.any() for _, mine in owners]).to(self.shard.mesh.device)
        comes = self.shard.mesh.largest(comes.int()).tolist()  # to any process: all receive it
        for (cache, mine), wanted in zip(owners, comes, strict=True):
            if wanted or cache is self.caches[into]:
                cache.receive(ids[mine], from_rows(some(rows, mine), form))

    @property
    def some_id(self) -> int:
        """Of an item whose features are here, where any are."""
        return max(cache.some_id for cache in self.caches)

    @property
    def num_rows(self) -> int:
        return self.shard.size

    @property
    def clock(self) -> int:
        return self.caches[0].clock

    @property
    def valid(self) -> Bool[Tensor, "S"]:
        """Whether the row has been written since its item came."""
        return self.order.merged([cache.valid for cache in self.caches])

    @property
    def log_weights(self) -> Float[Tensor, "S"] | None:
        """log of how many items each row stands for; None: each for itself."""
        if all(cache.log_weights is None and cache.coverage == 1 for cache in self.caches):
            return None
        return self.order.merged([_log_weights(cache) for cache in self.caches])

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        """Whole chunks across the end of the rows of one cache and the beginning of the next."""
        return self.order.chunks([cache.chunks(size) for cache in self.caches], size)

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        which, rows = self.order.rows(slots)
        own = [which == number for number in range(len(self.caches))]
        parts = [cache.rows(rows[mine]) for cache, mine in zip(self.caches, own, strict=True)]
        order = torch.cat([mine.nonzero().squeeze(1) for mine in own])
        return torch.cat(parts)[order.argsort()]

    def slots(self, ids: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        found = torch.full_like(ids, -1)
        for number, cache in enumerate(self.caches):
            found = torch.maximum(found, self.order.slots(number, cache.slots(ids)))
        return found

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        (which, rows), found = self.order.rows(slots), torch.empty_like(slots)
        for number, cache in enumerate(self.caches):
            mine = which == number
            found[mine] = cache.ids(rows[mine])
        return found

    def missing(self) -> Int[Tensor, "R"]:
        return torch.cat([cache.missing() for cache in self.caches])

    def write(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Remember fresh rows of distinct items, each in its cache."""
        for cache in self.caches:
            mine = cache.knows(ids)
            cache.write(ids[mine], rows[mine])

    def plan(self) -> Int[Tensor, "R"]:
        return torch.cat([cache.plan() for cache in self.caches])

    def commit(self) -> None:
        for cache in self.caches:
            cache.commit()

    def step(self) -> None:
        """One optimizer step has passed."""
        for cache in self.caches:
            cache.step()

    def observe(self, observer: Observer, name: str | None = None) -> None:
        """Tell it of every change, as long as somebody holds it; its state is saved with this."""
        if not self.relays:
            numbers = range(len(self.caches))
            self.relays = [_Relay(self.observers, self.order, number) for number in numbers]
            for cache, relay in zip(self.caches, self.relays, strict=True):
                cache.observe(relay, "side by side")
        self.observers.add(observer, name)

    def state_dict(self) -> dict[str, Any]:
        states = {f"cache {number}": each.state_dict() for number, each in enumerate(self.caches)}
        return states | self.observers.state_dict(self.shard)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if (saved := sum(name.startswith("cache ") for name in state)) != len(self.caches):
            raise InputError(
                f"a state of {len(self.caches)} caches side by side", f"one of {saved}",
                "build as many as were saved, in their order",
            )  # fmt: skip
        for number, cache in enumerate(self.caches):
            cache.load_state_dict(state[f"cache {number}"])
        self.observers.load_state_dict(state, self.shard)

    def _owners(self, ids: Int[Tensor, "M"], otherwise: int) -> Parts:
        """Each item's cache; one that no cache knows is that of ``otherwise``."""
        known = [cache.knows(ids) for cache in self.caches]
        known[otherwise] |= ~torch.stack(known).any(dim=0)
        return list(zip(self.caches, known, strict=True))


class _Relay:
    """Tells the observers of all caches what changes in one.

    Args:
        observers: of all.
        order: of the rows of all.
        number: of this one.
    """

    def __init__(self, observers: Observers, order: Interleaved, number: int) -> None:
        self.observers, self.order, self.number = observers, order, number

    def rows_changed(self, change: RowChange) -> None:
        slots = self.order.slots(self.number, change.slots)
        self.observers.tell(replace(change, slots=slots))

    def invalidate(self) -> None:
        self.observers.invalidate()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The observers are loaded after all caches."""


def _log_weights(cache: StreamingCache) -> Float[Tensor, "S"]:
    if cache.log_weights is not None:
        return cache.log_weights
    stands = torch.full((cache.num_rows,), cache.coverage, dtype=torch.float64).log()
    return -stands.to(cache.device)


def _below(parts: list[Rows], order: Tensor) -> Rows:
    return {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}
