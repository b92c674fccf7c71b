"""The rest form: every cached row stays in the denominator, a few distinct items are encoded.

``log Z = logaddexp(terms of the encoded items, rest)``, the rest being the cached rows that were
not encoded. On a fresh cache value and query gradient are exact for every draw (to rounding: a rest
below 1e-6 sqrt(S) of the sum is left out); only the item
side is sampled, and each encoded item's gradient as a negative is divided by its chance to be
encoded (Horvitz-Thompson).
"""

from typing import NamedTuple

import torch

from negcache.errors import InputError
from negcache.interfaces import Store
from negcache.messages import Draw, Request, Rest
from negcache.ops.rest import inclusion_chances, systematic
from negcache.ops.two_stage import masked_chunks, scan
from negcache.shapes import Float, Float64, Tensor
from negcache.stores.reading import embeddings, scored_rows


class CachedRest:
    """Distinct items for the whole batch; cached rows that were not encoded stay in the sum.

    An item is encoded with chance ``min(1, c sum_b p~_b(y))``, by systematic sampling. On a fresh
    cache loss and query gradient are exact for every draw, item gradients unbiased; on a stale one
    the rest carries stale scores: the low-variance end of the scale, where ``SharedDraws`` with
    ``log_q_corrected`` is the unbiased one. Costs a second pass over the store. Takes
    ``log_q_corrected`` only.

    Args:
        store: a row for every item.
        num_encoded: items encoded a step beside the batch's positives, on average.
    """

    has_density = False

    def __init__(self, store: Store, num_encoded: int) -> None:
        if not 1 <= num_encoded <= store.num_items:
            raise InputError(
                f"num_encoded between 1 and the {store.num_items} cached items",
                f"{num_encoded}",
                "encode fewer, or use FullSoftmax",
            )
        probe = torch.arange(2)
        if store.slots(probe) is not probe:  # a slot is an item id
            raise InputError(
                "a store with a row for every item",
                f"one that holds {store.coverage:.1%} of them",
                "use DenseCache, or SharedDraws(CachedSoftmax(...)) on this one",
            )
        self.store, self.num_encoded = store, num_encoded

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        if getattr(request.score, "absolute", False):
            raise InputError(
                "a score that is linear in the query", "absolute=True", "use SharedDraws"
            )
        uniform = torch.rand((), generator=generator, dtype=torch.float64)
        start = uniform.to(request.queries.device)
        return draw_with_rest(request, self.store, self.num_encoded, start)


class Demand(NamedTuple):
    """What two passes over the rows tell.

    Args:
        log_z: log sum of exp(s~) over each query's negatives.
        mean: their mean embedding under the cached softmax.
        demand: sum over the queries of each row's cached probability.
    """

    log_z: Float[Tensor, "B"]
    mean: Float[Tensor, "B D"]
    demand: Float[Tensor, "S"]


@torch.no_grad()
def find_demand(request: Request, store: Store) -> Demand:
    """Two passes of scores over the store; holds [B, D] and [S], never [B, S]."""
    rows = scored_rows(request, store)
    log_z = scan(rows).log_mass
    divisor = log_z.masked_fill(log_z == -torch.inf, 0.0)[:, None]
    mean, demand = torch.zeros_like(request.queries, dtype=rows.queries.dtype), []
    for first, logits in masked_chunks(rows):
        chances = logits.sub_(divisor).exp_()
        slots = torch.arange(first, first + chances.shape[1], device=chances.device)
        mean.addmm_(chances, embeddings(store, slots).to(chances.dtype))
        demand.append(chances.sum(dim=0))
    return Demand(log_z, mean.to(request.queries.dtype), torch.cat(demand))


@torch.no_grad()
def draw_with_rest(
    request: Request, store: Store, count: int, uniform: Float64[Tensor, ""]
) -> Draw:
    """``count`` distinct items beside the batch's positives, and what stands for all others.

    Args:
        store: of every item, slot = item id.
        count: items encoded beside the batch's positives, on average.
        uniform: in [0, 1): the start of the systematic sample.
    """
    seen, targets = find_demand(request, store), request.targets.unique()
    demand = seen.demand.clone()
    demand[targets] = 0  # encoded in any case
    chances = inclusion_chances(demand, count)
    ids = torch.cat([targets, systematic(chances, uniform)])
    chances[targets] = 1.0
    masked = request.exclude.mask(ids) | ~store.valid[ids]
    table = embeddings(store, ids).to(request.queries.dtype)
    logits = request.score(request.queries, table) - seen.log_z[:, None]
    share = logits.exp().masked_fill(masked, 0.0)
    left = (1 - share.sum(dim=1)).clamp_min(0)
    tiny = 8 * torch.finfo(left.dtype).eps * len(seen.demand) ** 0.5  # below: rounding
    none = (left <= tiny) | (seen.log_z == -torch.inf)
    mean = (seen.mean - share @ table) / left.clamp_min(tiny)[:, None]
    rest = Rest(
        (seen.log_z + left.log()).masked_fill(none, -torch.inf),
        mean.masked_fill(none[:, None], 0.0),
        chances[ids].to(left.dtype),
    )
    return Draw(ids, None, torch.zeros_like(share).masked_fill(masked, -torch.inf), rest=rest)
