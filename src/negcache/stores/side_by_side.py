"""Several streaming caches as one: each has slots of its own, draws are from all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from negcache.errors import InputError
from negcache.interfaces import Observer
from negcache.messages import RowChange
from negcache.ops.shards import Shard
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
    belong in one cache. Slots are those of the first cache, then those of the next.
    Source: google-research/negative_cache, whose loss takes several caches.

    Args:
        caches: of as many dimensions, on one device; of one process.

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
        if caches[0].shard.mesh.size > 1:
            raise InputError(
                "caches of one process",
                f"some that {caches[0].shard.mesh.size} share",
                "take one StreamingCache, which deals its slots out",
            )
        self.caches = list(caches)
        self.num_items, self.observers = caches[0].num_items, Observers()
        ends = torch.tensor([0, *(cache.num_rows for cache in caches)]).cumsum(0).tolist()
        self.bounds = [slice(*ends_of) for ends_of in pairwise(ends)]
        self.shard = Shard.whole(ends[-1])
        self.relays: list[_Relay] = []

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> Features:
        """Features of items that have a slot, or wait for one."""
        parts = [(mine, cache[ids[mine]]) for cache, mine in self._owners(ids, 0) if mine.any()]
        if len(parts) == 1:
            return parts[0][1]
        form = form_of(parts[0][1])
        rows = [to_rows(features) for _, features in parts]
        width = max(width_of(each, form) for each in rows)
        order = torch.cat([mine.nonzero().squeeze(1) for mine, _ in parts]).argsort()
        return from_rows(_below([widened(each, form, width) for each in rows], order), form)

    def receive(self, ids: Int[Tensor, "M"], features: Features, into: int = 0) -> None:
        """These items come next in the stream of that cache; see ``StreamingCache.receive``."""
        rows, form = to_rows(features), form_of(features)
        for cache, mine in self._owners(ids, into):
            if mine.any() or cache is self.caches[into]:
                cache.receive(ids[mine], from_rows(some(rows, mine), form))

    @property
    def some_id(self) -> int:
        """Of an item whose features are here, where any are."""
        return max(cache.some_id for cache in self.caches)

    @property
    def num_rows(self) -> int:
        return self.shard.total

    @property
    def clock(self) -> int:
        return self.caches[0].clock

    @property
    def valid(self) -> Bool[Tensor, "S"]:
        """Whether the row has been written since its item came."""
        return torch.cat([cache.valid for cache in self.caches])

    @property
    def log_weights(self) -> Float[Tensor, "S"] | None:
        """log of how many items each row stands for; None: each for itself."""
        if all(cache.log_weights is None and cache.coverage == 1 for cache in self.caches):
            return None
        return torch.cat([_log_weights(cache) for cache in self.caches])

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        """Whole chunks across the end of one cache and the beginning of the next."""
        first, rest = 0, torch.empty(0)
        for cache in self.caches:
            for _, block in cache.chunks(size):
                rest = torch.cat([rest, block]) if len(rest) else block
                while len(rest) >= size:
                    yield first, rest[:size]
                    first, rest = first + size, rest[size:]
        if len(rest):
            yield first, rest

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        owners = list(self._of(slots))
        parts = [cache.rows(slots[mine] - first) for cache, first, mine in owners]
        order = torch.cat([mine.nonzero().squeeze(1) for _, _, mine in owners])
        return torch.cat(parts)[order.argsort()]

    def slots(self, ids: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        found = torch.full_like(ids, -1)
        for cache, bounds in zip(self.caches, self.bounds, strict=True):
            here = cache.slots(ids)
            found = found.where(here < 0, here + bounds.start)
        return found

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return torch.cat([cache.ring.held for cache in self.caches])[slots]

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
            self.relays = [_Relay(self.observers, bounds.start) for bounds in self.bounds]
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

    def _of(self, slots: Int[Tensor, "M"]) -> Iterator[tuple[StreamingCache, int, Tensor]]:
        for cache, bounds in zip(self.caches, self.bounds, strict=True):
            yield cache, bounds.start, (slots >= bounds.start) & (slots < bounds.stop)


class _Relay:
    """Tells the observers of all caches what changes in one.

    Args:
        observers: of all.
        first: slot of the first row of this one.
    """

    def __init__(self, observers: Observers, first: int) -> None:
        self.observers, self.first = observers, first

    def rows_changed(self, change: RowChange) -> None:
        self.observers.tell(replace(change, slots=change.slots + self.first))

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
