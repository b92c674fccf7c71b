"""What share of the softmax the rows of a store, or of a larger one, could stand for."""

from collections.abc import Iterator, Sequence

import torch

from negcache.diagnosis.advice import is_less
from negcache.diagnosis.exact import blocks, log_chances
from negcache.diagnosis.items import FreshItems, ItemSample
from negcache.diagnosis.report import Advice, Coverage, SamplerReport
from negcache.interfaces import Store
from negcache.messages import Request
from negcache.shapes import Bool, Float64, Int, Tensor

TIMES = 2
"""How much larger the cache is whose coverage is foretold."""


@torch.no_grad()
def masses_of(
    request: Request, log_z: Float64[Tensor, "B"], items: FreshItems, sample: ItemSample
) -> Float64[Tensor, "n"]:
    """What of the softmax over the negatives is on each item of a sample and those that it stands
    for: the mean over the queries that have a negative."""
    asks = log_z > -torch.inf
    found = torch.zeros_like(sample.weight)
    for some, ids, masked in blocks(request, sample):
        log_p = log_chances(request, items, ids, masked) - log_z[:, None]
        found[some] = log_p[asks].exp().sum(dim=0) * sample.weight[some]
    return found / max(1, int(asks.sum()))


def held_by(store: Store, ids: Int[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Of which items a store has a row that has been written."""
    slots = store.slots(ids)
    return (slots >= 0) & store.valid[slots.clamp_min(0)]


class Covered:
    """Adds up, batch by batch, where the softmax is.

    Args:
        store: of a loss; None: it has none.
        recent: distinct items of a stream, the newest first; None: that is not known.
        num_items: N.
    """

    def __init__(self, store: Store | None, recent: Tensor | None, num_items: int) -> None:
        self.store, self.recent = store, recent
        self.rows = 0 if store is None else int(store.valid.sum())
        self.has_all = self.rows >= num_items
        self.masses: list[Tensor] = []

    def add(self, request: Request, log_z: Tensor, items: FreshItems, sample: ItemSample) -> None:
        """One more batch."""
        if self.store is not None and not self.has_all:
            self.masses.append(masses_of(request, log_z, items, sample))

    def now(self, sample: ItemSample) -> Coverage | None:
        """By the rows that there are; None: there is no store."""
        if self.store is None:
            return None
        if self.has_all:
            return Coverage(self.rows, 1.0)
        return Coverage(self.rows, self._share(held_by(self.store, sample.ids)))

    def by_rows(self, sample: ItemSample) -> list[Coverage]:
        """By the items that came last: so many that a cache of an eighth, a quarter, a half of its
        rows has, by as many as it has, and by ``TIMES`` as many, or all that came.

        Empty where the cache has room, or where which items those are is not known: what came last
        is not what it has.
        """
        store, recent = self.store, self.recent
        if store is None or recent is None or not self.rows == store.num_rows < len(recent):
            return []
        recent = recent.to(sample.ids.device)
        if not bool(held_by(store, recent[: self.rows]).all()):
            return []
        sizes = [self.rows // 8, self.rows // 4, self.rows // 2, self.rows]
        sizes = [size for size in sizes if size] + [min(TIMES * self.rows, len(recent))]
        held = (torch.isin(sample.ids, recent[:size]) for size in sizes)
        return [Coverage(*each) for each in zip(sizes, map(self._share, held), strict=True)]

    def _share(self, which: Bool[Tensor, "n"]) -> float:
        return float(torch.stack(self.masses).mean(dim=0)[which].sum())


def on_coverage(own: SamplerReport, by_rows: Sequence[Coverage]) -> Iterator[Advice]:
    """What a larger cache would hold, where that is more.

    Args:
        by_rows: what the cache holds, and then what the larger one would; or nothing.
    """
    if not by_rows:
        return
    now, larger = by_rows[-2:]
    if not is_less(1 - larger.share, 1 - now.share):
        return
    sentence = (
        f"The {now.rows:,} rows of the cache hold {now.share:.0%} of the softmax over the "
        f"negatives; {larger.rows:,} rows, the items that came last, would hold "
        f"{larger.share:.0%}."
    )
    missed = 1 - now.share, 1 - larger.share
    yield Advice("capacity", sentence, "missed", *missed, 1.0, own.name, larger.rows)
