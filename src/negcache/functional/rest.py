"""The rest form: every cached row stays in the denominator, a few distinct items are encoded.

``log Z = logaddexp(terms of the encoded items, rest)``, the rest being the cached rows that were
not encoded. On a fresh cache value and query gradient are exact for every draw (to rounding: a rest
below 1e-6 sqrt(S) of the sum is left out); only the item
side is sampled, and each encoded item's gradient as a negative is divided by its chance to be
encoded (Horvitz-Thompson).
"""

from typing import NamedTuple

import torch

from negcache.functional.two_stage import cell_log_masses, masked_blocks
from negcache.protocols import Draw, Request, Rest, Rows, Score
from negcache.shapes import Float, Float64, Int, Tensor


class Look(NamedTuple):
    """What two passes over the cached rows tell.

    Args:
        log_z: log sum of exp(s~) over each query's negatives.
        mean: their mean embedding under the cached softmax.
        demand: sum over the queries of each row's cached probability.
    """

    log_z: Float[Tensor, "B"]
    mean: Float[Tensor, "B D"]
    demand: Float[Tensor, "S"]


@torch.no_grad()
def look(request: Request, rows: Rows) -> Look:
    """Two passes of scores over the cache; holds [B, D] and [S], never [B, S]."""
    log_z = torch.logsumexp(cell_log_masses(request, rows), dim=1)
    divisor = log_z.masked_fill(log_z == -torch.inf, 0.0)[:, None]
    mean, demand = torch.zeros_like(request.queries), []
    for first, logits in masked_blocks(request, rows):
        chances = logits.sub_(divisor).exp_()
        slots = torch.arange(first, first + chances.shape[1], device=chances.device)
        mean.addmm_(chances, rows.rows(slots).to(chances.dtype))
        demand.append(chances.sum(dim=0))
    return Look(log_z, mean, torch.cat(demand))


def inclusion_chances(demand: Float[Tensor, "S"], count: int) -> Float64[Tensor, "S"]:
    """``min(1, c demand)`` with c such that the chances sum to ``count``.

    All rows with demand get chance 1 where there are no more of them than ``count``.
    """
    demand = demand.double()
    wanted = int((demand > 0).sum())
    if count >= wanted:
        return (demand > 0).double()
    ordered = demand.sort(descending=True).values
    left = ordered.flip(0).cumsum(0).flip(0)[:count]  # demand of row i and all smaller ones
    factor = (count - torch.arange(count, device=demand.device)) / left
    certain = int((factor * ordered[:count] > 1).sum())  # these are encoded for sure
    return (demand * factor[min(certain, count - 1)]).clamp_(max=1.0)


def systematic(chances: Float64[Tensor, "S"], uniform: Float64[Tensor, ""]) -> Int[Tensor, "M"]:
    """Distinct rows, each with exactly its chance; as many as the chances sum to, up to one.

    A point is set every 1 along the line of summed chances, from a random start.
    """
    ends = chances.cumsum(0) + uniform
    starts = torch.cat([uniform[None], ends[:-1]])
    return (ends.floor() > starts.floor()).nonzero().squeeze(1)


@torch.no_grad()
def draw_with_rest(request: Request, rows: Rows, count: int, uniform: Float64[Tensor, ""]) -> Draw:
    """``count`` distinct items beside the batch's positives, and what stands for all others.

    Args:
        request: in slots that are item ids.
        rows: of every item.
        count: items encoded beside the batch's positives, on average.
        uniform: in [0, 1): the start of the systematic sample.
    """
    seen, targets = look(request, rows), request.targets.unique()
    demand = seen.demand.clone()
    demand[targets] = 0  # encoded in any case
    chances = inclusion_chances(demand, count)
    ids = torch.cat([targets, systematic(chances, uniform)])
    chances[targets] = 1.0
    barred = request.exclude.mask(ids) | ~rows.valid[ids]
    table = rows.rows(ids).to(request.queries.dtype)
    logits = request.score(request.queries, table) - seen.log_z[:, None]
    share = logits.exp().masked_fill(barred, 0.0)
    left = (1 - share.sum(dim=1)).clamp_min(0)
    tiny = 8 * torch.finfo(left.dtype).eps * len(seen.demand) ** 0.5  # below: rounding
    none = (left <= tiny) | (seen.log_z == -torch.inf)
    mean = (seen.mean - share @ table) / left.clamp_min(tiny)[:, None]
    rest = Rest(
        (seen.log_z + left.log()).masked_fill(none, -torch.inf),
        mean.masked_fill(none[:, None], 0.0),
        chances[ids].to(left.dtype),
    )
    return Draw(ids, None, torch.zeros_like(share).masked_fill(barred, -torch.inf), rest=rest)


def rest_term(queries: Float[Tensor, "B D"], score: Score, rest: Rest) -> Float[Tensor, "B 1"]:
    """``log_mass`` with its gradient to queries and scale: the scaled mean embedding.

    Exact for inner products; the backward pass holds [B, D].
    """
    linear = score.scale * (queries * rest.mean).sum(dim=1)
    return (rest.log_mass + (linear - linear.detach()))[:, None]


def item_grad_scale(
    items: Float[Tensor, "M D"], inclusion: Float[Tensor, "M"]
) -> Float[Tensor, "M D"]:
    """The items themselves, their gradient divided by their chance to be encoded.

    ``e k + sg(e (1 - k))`` would be the same on paper; in float32 it loses e where k is large.
    """
    still = items.detach()
    return still + (items - still) * inclusion.reciprocal()[:, None]
