"""What else could be drawn: the loss' own sampler with one thing changed, to be measured beside it.

Every advice is one of these, measured.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import torch

from negcache.diagnosis.items import FreshItems
from negcache.diagnosis.staleness import row_errors
from negcache.interfaces import DensitySampler, Sampler
from negcache.samplers import CachedSoftmax, Mixture, SharedDraws, Uniform
from negcache.shapes import Float, Float64, Int, Tensor
from negcache.stores import DenseCache
from negcache.stores.reading import embeddings
from negcache.stores.refresh import Oldest

TIMES = 4
"""How much more often rows are looked at in the variant that does."""

GROUPS = 64
"""Ages are told apart so finely."""


@dataclass(frozen=True)
class Variant:
    """A sampler that differs from the loss' own in one thing.

    Args:
        kind: "draws", "batch", "uniform" or "refresh"; of ``auto`` "choice".
        change: what was done, as a sentence goes on.
        sampler: with the change.
        drops_store: whether it needs no store where the loss' own does.
    """

    kind: str
    change: str
    sampler: Sampler
    drops_store: bool = False

    @property
    def has_own_law(self) -> bool:
        """Whether its draws have another law than the loss' own, not only another number."""
        return self.kind not in ("draws", "batch")


def variants(
    sampler: Sampler,
    num_items: int | None,
    partners: Int[Tensor, "P"] | None,
    items: FreshItems | None,
) -> list[Variant]:
    """Those that can be built; samplers without a density have none.

    Args:
        sampler: the loss' own.
        num_items: of the corpus; None: items come in a stream, and nothing is known of all of them.
        partners: target items of training pairs; None: popularity is not known.
        items: fresh embeddings of all items; None: there are only some.
    """
    shared = sampler if isinstance(sampler, SharedDraws) else None
    each = sampler if shared is None else shared.sampler
    if not isinstance(each, DensitySampler) or not each.has_density:
        return []
    found: list[Variant | None] = [_twice(each, shared, num_items)]
    if num_items is not None:
        found.append(_with_batch(each, shared, num_items, partners))
    if num_items is not None and not isinstance(each, Uniform):
        uniform = Uniform(range(num_items), each.num_negatives)
        change = f"uniform draws, {each.num_negatives} a query"
        pooled, drops = _pooled(uniform, shared), each.store is not None
        found.append(Variant("uniform", change, pooled, drops))
    if items is not None:
        found.append(_refreshed(each, shared, items))
    return [variant for variant in found if variant is not None]


def _pooled(each: Sampler, shared: SharedDraws | None) -> Sampler:
    """Shared as the loss' own draws are."""
    if shared is None:
        return each
    return SharedDraws(each, num_encoded=shared.num_encoded, log_popularity=shared.log_popularity)


def _twice(
    each: DensitySampler, shared: SharedDraws | None, num_items: int | None
) -> Variant | None:
    if shared is not None and shared.num_encoded is not None:
        more = SharedDraws(
            each, num_encoded=2 * shared.num_encoded, log_popularity=shared.log_popularity
        )
        return Variant("draws", f"{2 * shared.num_encoded} draws a step", more)
    count = 2 * each.num_negatives
    if num_items is not None and count > num_items:
        return None
    return Variant("draws", f"{count} draws a query", _pooled(_doubled(each), shared))


def _doubled(each: DensitySampler) -> DensitySampler:
    """Twice the draws of a query, of each part of a mixture."""
    if isinstance(each, Mixture):
        return Mixture(*map(_doubled, each.samplers))
    double = copy(each)
    vars(double)["num_negatives"] = 2 * each.num_negatives
    return double


def _over(each: DensitySampler, store: DenseCache) -> DensitySampler:
    """Over other rows, with each part of a mixture that has any."""
    if isinstance(each, Mixture):
        return Mixture(*(_over(part, store) for part in each.samplers))
    other = copy(each)
    if each.store is not None:
        vars(other)["store"] = store
    return other


def _with_batch(
    each: Sampler, shared: SharedDraws | None, num_items: int, partners: Tensor | None
) -> Variant | None:
    if shared is None or shared.log_popularity is not None or partners is None:
        return None
    counts = torch.bincount(partners, minlength=num_items).double()
    log_popularity = (counts / counts.sum()).log().float()
    with_batch = SharedDraws(each, num_encoded=shared.num_encoded, log_popularity=log_popularity)
    return Variant("batch", "the batch's other positives among the negatives", with_batch)


def _refreshed(
    each: DensitySampler, shared: SharedDraws | None, items: FreshItems
) -> Variant | None:
    """Over rows as young as they would be, were they looked at more often."""
    store, parts = each.store, each.samplers if isinstance(each, Mixture) else [each]
    by_scores = all(isinstance(part, CachedSoftmax) for part in parts if part.store is not None)
    if not by_scores or not isinstance(store, DenseCache):
        return None
    policy = store.refresh
    if not isinstance(policy, Oldest) or not 0 < TIMES * policy.rho <= 1:
        return None
    other = _over(each, younger(store, policy.rho, items))
    rates = f"{TIMES * policy.rho:.2%} instead of {policy.rho:.2%} of the rows looked at a step"
    return Variant("refresh", rates, _pooled(other, shared))


@torch.no_grad()
def younger(store: DenseCache, rho: float, items: FreshItems) -> DenseCache:
    """The rows as they would be, had ``TIMES`` as many been looked at each step.

    How far off a row of an age is, the rows of that age say; those that would have been looked at
    meanwhile are put so far towards their fresh embedding. Young rows are often those that were
    drawn, which move more than others: what is foretold is rather too little than too much.
    """
    ids = torch.arange(len(store), device=store.valid.device)
    ages, errors = store.ages().long(), row_errors(store, ids, items)
    new, typical = younger_ages(ages, rho, TIMES * rho), _error_at(ages.double(), errors)
    kept = typical(new.double()) / typical(ages.double()).clamp_min(1e-30)
    kept = kept.clamp(max=1).sqrt()
    changed = DenseCache(
        len(store),
        store.table.dim,
        refresh=TIMES * rho,
        dtype=store.table.embeddings.dtype,
        device=store.valid.device,
        mesh=store.shard.mesh,
    )
    score = items.encoder.score
    for some in ids.split(1 << 16):
        fresh = items(some)
        rows = fresh + (embeddings(store, some).to(fresh) - fresh) * kept[some, None].to(fresh)
        changed.write(some, score.embed(rows))
    changed.clock = store.clock
    return changed


def younger_ages(ages: Int[Tensor, "S"], rho: float, more: float) -> Int[Tensor, "S"]:
    """Ages of rows, had a larger share been looked at each step, the oldest first.

    No row is then older than T, and those that are now have ages spread from 1 to T: each costs one
    look in T steps, and what is looked at already ``rho T`` of all, so ``#(age > T) = (more - rho)
    S T``. Rows that training writes in between stay as young as they are.

    Examples:
        >>> younger_ages(torch.arange(1, 101), 0.01, 0.04).max()  # every 100, then every 25 steps
        tensor(25)
    """
    counts = torch.bincount(ages.clamp_min(0))
    older = len(ages) - counts.cumsum(0)
    limits = torch.arange(len(counts), device=ages.device)
    fits = older <= (more - rho) * len(ages) * limits
    limit = int(limits[fits][0]) if bool(fits.any()) else len(counts)
    old = (ages > max(limit, 1)).nonzero().squeeze(1)
    spread = ages.clone()
    turns = ages[old].argsort(stable=True).argsort()
    spread[old] = 1 + turns * max(limit, 1) // max(len(old), 1)
    return spread


def _error_at(
    ages: Float64[Tensor, "n"], errors: Float64[Tensor, "n"]
) -> Callable[[Tensor], Tensor]:
    """Mean error of rows by their age: straight lines between groups of equally many rows."""
    order = ages.argsort()
    groups = [part for part in order.tensor_split(GROUPS) if len(part)]
    at = torch.stack([ages[part].mean() for part in groups])
    mean = torch.stack([errors[part].mean() for part in groups])
    mean = mean.cummax(dim=0).values

    def error(wanted: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        right = torch.searchsorted(at, wanted.contiguous()).clamp(1, len(at) - 1)
        left = right - 1
        width = (at[right] - at[left]).clamp_min(1e-9)
        share = ((wanted - at[left]) / width).clamp(0, 1)
        return mean[left] + share * (mean[right] - mean[left])

    return error
