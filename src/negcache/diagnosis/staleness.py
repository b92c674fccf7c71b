"""How far stored rows are from fresh ones, by their age."""

from typing import NamedTuple

import torch

from negcache.diagnosis.items import FreshItems
from negcache.interfaces import Store
from negcache.shapes import Float64, Int, Tensor
from negcache.stores.reading import embeddings

AT_ONCE = 1 << 14
"""Rows compared at a time."""


class AgeBin(NamedTuple):
    """Rows of a store that were last written so many steps ago.

    Args:
        youngest, oldest: ages in optimizer steps, both among them.
        rows: how many.
        error: mean ``||stored - fresh||^2 / ||fresh||^2``.
        highest: a tenth of the rows is further off.
    """

    youngest: int
    oldest: int
    rows: int
    error: float
    highest: float


@torch.no_grad()
def row_errors(store: Store, ids: Int[Tensor, "n"], items: FreshItems) -> Float64[Tensor, "n"]:
    """``||stored - fresh||^2 / ||fresh||^2`` of items; NaN where the store has no row of them."""
    found = []
    for some in ids.split(AT_ONCE):
        slots = store.slots(some)
        held = (slots >= 0) & store.valid[slots.clamp_min(0)]
        fresh = items(some[held]).double()
        drift = (embeddings(store, slots[held]).double() - fresh).square().sum(dim=1)
        each = torch.full(some.shape, torch.nan, dtype=torch.float64, device=some.device)
        each[held] = drift / fresh.square().sum(dim=1).clamp_min(1e-300)
        found.append(each)
    return torch.cat(found)


def by_age(ages: Int[Tensor, "n"], errors: Float64[Tensor, "n"]) -> list[AgeBin]:
    """Ages 0, 1, 2 to 3, 4 to 7, and so on; rows of NaN are left out."""
    there = errors.isfinite()
    ages, errors = ages[there], errors[there]
    group = (ages.double() + 1).log2().floor().long()
    bins = []
    for number in torch.unique(group).tolist():
        mine, own = errors[group == number], ages[group == number]
        high = float(torch.sort(mine).values[int(0.9 * (len(mine) - 1))])
        bins.append(AgeBin(int(own.min()), int(own.max()), len(mine), float(mine.mean()), high))
    return bins
