"""What arrives in a stream, and how many items a row of the newest ones stands for."""

from typing import Any

import torch

from negcache.distributed import Mesh
from negcache.errors import InputError
from negcache.shapes import Float64, Int, Tensor
from negcache.stores.ring import Ring

EVICTIONS = ("fifo", "least_recently_refreshed")

ROW_WEIGHTS = ("none", "uniform", "popularity", "dedup")

MULTIPLIERS = (-7046029254386353131, -4417276706812531889)
"""Odd numbers that spread ids over the buckets of two tables."""


class Arrivals:
    """What has come in a stream: how much, how often each item, and who came last.

    A count is the smaller of two hashed buckets: never below the true one, above it where an item
    meets others in both (count-min sketch, Cormode and Muthukrishnan, 2005). Memory does not depend
    on the number of items. What comes is counted once all of it has its slots: as far as rows go.

    Args:
        kind: of ``ROW_WEIGHTS``; "none" and "uniform" want no counts.
        window: S, arrivals that are remembered one by one.
        device: of all.
        bits: log2 of the buckets in a table, of 8 bytes each.

    Attributes:
        total: arrivals that are counted.
        left: place in the stream, from 0, of the last arrival of any item that has lost its slot.
    """

    def __init__(
        self, kind: str, window: int, device: torch.device | str = "cpu", bits: int = 20
    ) -> None:
        self.kind, self.bits, self.total, self.left = kind, bits, 0, -1
        self.has_counts = kind in ("popularity", "dedup")
        self.buckets = torch.zeros(2, self.has_counts << bits, dtype=torch.int64, device=device)
        self.last = torch.full((window,), -1, dtype=torch.int64, device=device)
        self.pending = self.last[:0]

    @property
    def position(self) -> int:
        """Arrivals so far."""
        return self.total + len(self.pending)

    def come(self, ids: Int[Tensor, "M"]) -> None:
        """These arrive next, each as often as it is there."""
        self.pending = torch.cat([self.pending, ids])

    def settle(self) -> None:
        """All that came has its slots: count it."""
        ids = self.pending
        if self.has_counts and len(ids):
            for table, buckets in zip(self.buckets, self._places(ids), strict=True):
                table.index_add_(0, buckets, torch.ones_like(buckets))
            newest = ids[-len(self.last) :]
            place = torch.arange(self.position - len(newest), self.position, device=ids.device)
            self.last[place % len(self.last)] = newest
        self.total, self.pending = self.position, ids[:0]

    def log_weights(self, ring: Ring) -> Float64[Tensor, "S"]:
        """log of how many items the row of each slot stands for; -inf of empty slots."""
        chances = self._chances(ring.held)
        if self.kind == "dedup":
            found = log_weights_of_distinct(chances, self.total - 1 - self.left)
        else:
            slots = ring.slots(self.last)
            seen = torch.bincount(slots[slots >= 0], minlength=len(ring)).double()
            window = min(max(self.total, 1), len(ring))  # before anything is counted no row counts
            found = log_weights_of_window(seen, chances, window)
        return found.masked_fill(~ring.occupied, -torch.inf)

    def state_dict(self) -> dict[str, Any]:
        names = ("total", "left", "buckets", "last", "pending")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.left = int(state["total"]), int(state["left"])
        self.buckets.copy_(state["buckets"])
        self.last.copy_(state["last"])
        self.pending = state["pending"].clone().to(self.last.device)

    def _chances(self, ids: Int[Tensor, "M"]) -> Float64[Tensor, "M"]:
        """The share pi of each item among all arrivals."""
        pairs = zip(self.buckets, self._places(ids), strict=True)
        found = torch.stack([table[buckets] for table, buckets in pairs])
        return found.amin(dim=0).clamp_min(1).double() / max(self.total, 1)

    def _places(self, ids: Int[Tensor, "M"]) -> list[Int[Tensor, "M"]]:
        """The bucket of each id in each table: multiplied, then the highest bits."""
        mask = (1 << self.bits) - 1
        return [(ids * factor >> (64 - self.bits)) & mask for factor in MULTIPLIERS]


def log_weights_of_window(
    seen: Float64[Tensor, "S"], chances: Float64[Tensor, "S"], window: int
) -> Float64[Tensor, "S"]:
    """Every arrival of a window counts: ``log(seen / (window * pi))``; -inf where there is none."""
    return seen.log() - (window * chances).log()


def log_weights_of_distinct(chances: Float64[Tensor, "S"], arrivals: int) -> Float64[Tensor, "S"]:
    """An item counts once if it is among the last ``arrivals``: ``-log(1 - (1 - pi)^arrivals)``."""
    missed = max(arrivals, 1) * torch.log1p(-chances.clamp(max=1 - 1e-12))
    return -(-torch.expm1(missed)).log()


def check_weights(row_weight: str, num_items: int | None, eviction: str) -> None:
    """Raises InputError for settings that no weight is known for."""
    if row_weight not in ROW_WEIGHTS:
        raise InputError(
            f"row_weight of {', '.join(ROW_WEIGHTS)}", f"{row_weight!r}", "choose one of them"
        )
    if row_weight == "uniform" and num_items is None:
        raise InputError(
            "num_items with row_weight='uniform'",
            "None",
            "say how many items there are: a row then stands for num_items / rows of them",
        )
    if row_weight in ("popularity", "dedup") and eviction != "fifo":
        raise InputError(
            f"eviction='fifo' with row_weight={row_weight!r}",
            f"{eviction!r}",
            "rows that stay because they were drawn have no known chance to be there: take "
            "row_weight='none', or first in, first out",
        )


def check_settings(size: int, eviction: str) -> None:
    if size < 2:
        raise InputError("a size of 2 or more", f"{size}", "a softmax needs a negative")
    if eviction not in EVICTIONS:
        raise InputError(
            f"an eviction of {' or '.join(EVICTIONS)}", f"{eviction!r}", "choose one of them"
        )


def check_arriving(ids: Tensor) -> None:
    if ids.ndim != 1 or ids.dtype != torch.int64 or bool((ids < 0).any()):
        raise InputError(
            "ids [M] of int64, from 0 on",
            f"{ids.dtype} of shape {tuple(ids.shape)}"
            + (f", the smallest {int(ids.min())}" if ids.numel() else ""),
            "hash other ids to 63 bits",
        )


def check_room(wanted: int, size: int) -> None:
    if wanted > size:
        raise InputError(
            f"at most {size} new items between two steps, as many as there are slots",
            f"{wanted}",
            "receive fewer at a time, call loss_fn.step(), or make the cache larger",
        )


def last_of_each(ids: Int[Tensor, "M"]) -> Int[Tensor, "u"]:
    """Where each distinct id stands last, in order."""
    distinct, which = torch.unique(ids, return_inverse=True)
    order = torch.arange(len(ids), device=ids.device)
    last = torch.full_like(distinct, -1).scatter_reduce_(0, which, order, "amax")
    return last.sort().values


def gathered_ids(ids: Int[Tensor, "M"], mesh: Mesh) -> Int[Tensor, "_"]:
    """Those of all processes, one after the other."""
    if mesh.size == 1:
        return ids
    (counts,) = mesh.each(len(ids))
    return mesh.gather(ids.to(mesh.device), counts)
