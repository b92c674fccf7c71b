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
from negcache.exclusion import Exclusion
from negcache.interfaces import Store
from negcache.messages import Draw, Request, Rest
from negcache.ops.rest import inclusion_chances, systematic
from negcache.ops.shards import Masses
from negcache.ops.two_stage import masked_chunks, scan
from negcache.shapes import Bool, Float, Float64, Int, Tensor
from negcache.stores.reading import embeddings, refuse_weights, scored_rows


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
        probe = store.ids(torch.arange(2)).tolist()
        refuse_weights(store, "what is left to the cache")
        if store.coverage < 1 or probe[1] != probe[0] + 1:
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
        log_z: log sum of exp(s~) over each query's negatives, of all processes.
        mean: the part of their mean embedding under the cached softmax that rows here have.
        demand: sum over the queries of each row's cached probability; of the rows here.
    """

    log_z: Float[Tensor, "B"]
    mean: Float[Tensor, "B D"]
    demand: Float[Tensor, "S"]


@torch.no_grad()
def find_demand(request: Request, store: Store) -> Demand:
    """Two passes of scores over the store; holds [B, D] and [S], never [B, S]."""
    rows = scored_rows(request, store)
    log_z = Masses(store.shard.mesh, scan(rows).log_mass).log_total
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
        store: of every item.
        count: items encoded beside the batch's positives, on average.
        uniform: in [0, 1): the start of the systematic sample.
    """
    seen, targets = find_demand(request, store), request.targets.unique()
    ids, inclusion, valid = _chosen(seen.demand, targets, store, count, uniform)
    masked = request.exclude.mask(ids) | ~valid
    covered, mean = _covered(request, store, seen, ids, masked)
    left = (1 - covered).clamp_min(0)
    tiny = 8 * torch.finfo(left.dtype).eps * store.num_items**0.5  # below: rounding
    none = (left <= tiny) | (seen.log_z == -torch.inf)
    rest = Rest(
        (seen.log_z + left.log()).masked_fill(none, -torch.inf),
        (mean / left.clamp_min(tiny)[:, None]).masked_fill(none[:, None], 0.0),
        inclusion.to(left.dtype),
    )
    weight = torch.zeros_like(inclusion, dtype=left.dtype).masked_fill(~valid, -torch.inf)
    out = Exclusion.from_pairs(*request.exclude.among(ids), len(request.queries))
    return Draw(ids, None, weight, rest=rest, masked=out)


def _chosen(
    demand: Float[Tensor, "S"],
    targets: Int[Tensor, "T"],
    store: Store,
    count: int,
    uniform: Float64[Tensor, ""],
) -> tuple[Int[Tensor, "M"], Float64[Tensor, "M"], Bool[Tensor, "M"]]:
    """The items of all processes: the targets, then those sampled; their chances; which are valid.

    A line of chances runs over the rows of one process after the other.
    """
    mesh, mine = store.shard.mesh, store.slots(targets)
    here = mine >= 0
    demand = demand.index_fill(0, mine[here], 0)  # encoded in any case
    chances = inclusion_chances(demand, count, mesh)
    before = mesh.gather(chances.sum()[None])[: mesh.rank].sum()
    slots = systematic(chances, uniform + before)
    (sizes,) = mesh.each(len(slots))
    ids, inclusion, valid = (
        mesh.gather(each, sizes)
        for each in (store.ids(slots), chances[slots], store.valid[slots].long())
    )
    known = mesh.from_owners(store.valid[mine.clamp_min(0)].long(), here)
    return (
        torch.cat([targets, ids]),
        torch.cat([torch.ones_like(targets, dtype=inclusion.dtype), inclusion]),
        torch.cat([known, valid]).bool(),
    )


def _covered(
    request: Request,
    store: Store,
    seen: Demand,
    ids: Int[Tensor, "M"],
    masked: Bool[Tensor, "B M"],
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B D"]]:
    """The share of each query's mass that ``ids`` have; the others' part of the mean."""
    slots, mesh = store.slots(ids), store.shard.mesh
    here = slots >= 0
    table = embeddings(store, slots[here]).to(request.queries.dtype)
    logits = scored_rows(request, store).logits(slots[here]).to(table.dtype)
    share = (logits - seen.log_z[:, None]).exp().masked_fill(masked[:, here], 0.0)
    return mesh.total(share.sum(dim=1)), mesh.total(seen.mean - share @ table)
