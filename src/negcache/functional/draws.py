"""Rules that build draws: per-query draws in columns, pooled draws, given negatives."""

import torch

from negcache.exclusion import Exclusion
from negcache.protocols import Draw, Law, Request
from negcache.shapes import Float, Int, Tensor


def use_columns(
    drawn: Int[Tensor, "B m"],
    log_weight: Float[Tensor, "B m"],
    log_z: Float[Tensor, "B"] | None = None,
    log_share: Float[Tensor, "B m"] | None = None,
    law: Law | None = None,
) -> Draw:
    """A draw from each query's own items, repeats allowed; every distinct item is listed once."""
    ids, columns = torch.unique(drawn, return_inverse=True)
    return Draw(ids, columns, log_weight, log_z, log_share, law)


def draw_allowed(
    exclude: Exclusion, num_items: int, noise: Float[Tensor, "B m"]
) -> Int[Tensor, "B m"]:
    """Uniform among the ids that each query may draw; arbitrary where it may draw nothing."""
    ranks = (noise * (num_items - exclude.counts)[:, None]).long()
    return exclude.allowed(ranks, num_items)


def share(
    ids: Int[Tensor, "M"],
    seen: Int[Tensor, "M"],
    log_expected: Float[Tensor, "M"] | Float[Tensor, "B M"],
    request: Request,
) -> Draw:
    """Let the draws of all queries stand for every query of the batch.

    The weight of item j is ``log(count seen) - log(count expected)``, -inf where j may not stand
    for a query, or was not to be expected at all. Unbiased for every Z_b-.

    Args:
        ids: distinct.
        seen: how often each was drawn, by any query.
        log_expected: log of how often each was to be expected; per query where they differ.
        request: what was asked.
    """
    barred = request.exclude.mask(ids) | (log_expected == -torch.inf)
    weight = (seen.to(log_expected.dtype).log() - log_expected).expand(barred.shape)
    return Draw(ids, None, weight.masked_fill(barred, -torch.inf))


def given(negatives: Int[Tensor, "B h"], exclude: Exclusion, dtype: torch.dtype) -> Draw:
    """The user's own negatives, each with weight 0: they stand for themselves alone.

    Padding (-1), excluded items and repeats within a row get weight -inf, and cost no encoding.
    """
    rows = torch.arange(len(negatives), device=negatives.device)[:, None].expand_as(negatives)
    ordered = negatives.sort(dim=1).values
    repeat = torch.zeros_like(ordered, dtype=torch.bool)
    repeat[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    dead = repeat | (ordered < 0) | exclude.contains(rows, ordered.clamp_min(0))
    ids = torch.unique(ordered[~dead])
    width = negatives.shape[1] if len(ids) else 0
    columns = torch.searchsorted(ids, ordered.contiguous()).clamp_(max=max(len(ids) - 1, 0))
    weight = torch.zeros(ordered.shape, dtype=dtype, device=ids.device)
    return Draw(ids, columns[:, :width], weight.masked_fill(dead, -torch.inf)[:, :width])
