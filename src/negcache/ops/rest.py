"""Unequal inclusion chances, samples that keep them, and the gradients that go with them."""

import torch
from torch.nn import functional as F

from negcache.distributed import ALONE, Mesh
from negcache.shapes import Float, Float64, Int, Tensor


def inclusion_chances(
    demand: Float[Tensor, "S"], count: int, mesh: Mesh = ALONE
) -> Float64[Tensor, "S"]:
    """``min(1, c demand)`` with c such that the chances of all processes sum to ``count``.

    All rows with demand get chance 1 where there are no more of them than ``count``.
    """
    demand = demand.double()
    wanted = int(mesh.total((demand > 0).sum()))
    if count >= wanted:
        return (demand > 0).double()
    ordered = _largest_first(demand, count, mesh)
    left = ordered.flip(0).cumsum(0).flip(0)[:count]  # demand of row i and all smaller ones
    factor = (count - torch.arange(count, device=demand.device)) / left
    certain = int((factor * ordered[:count] > 1).sum())  # these are encoded for sure
    return (demand * factor[min(certain, count - 1)]).clamp_(max=1.0)


def _largest_first(demand: Float64[Tensor, "S"], count: int, mesh: Mesh) -> Float64[Tensor, "_"]:
    """Demand of all rows, largest first; of other processes' rows the ``count`` largest alone.

    The sum of the others stands as the last entry.
    """
    ordered = demand.sort(descending=True).values
    if mesh.size == 1:
        return ordered
    mine = F.pad(ordered[:count], (0, max(0, count - len(ordered))))
    others = mesh.total(ordered[count:].sum())
    return torch.cat([mesh.gather(mine).sort(descending=True).values, others[None]])


def systematic(chances: Float64[Tensor, "S"], uniform: Float64[Tensor, ""]) -> Int[Tensor, "M"]:
    """Distinct rows, each with exactly its chance; as many as the chances sum to, up to one.

    A point is set every 1 along the line of summed chances, from a random start.
    """
    ends = chances.cumsum(0) + uniform
    starts = torch.cat([uniform[None], ends[:-1]])
    return (ends.floor() > starts.floor()).nonzero().squeeze(1)


def item_grad_scale(
    items: Float[Tensor, "M D"], inclusion: Float[Tensor, "M"]
) -> Float[Tensor, "M D"]:
    """The items themselves, their gradient divided by their chance to be encoded.

    ``e k + sg(e (1 - k))`` would be the same on paper; in float32 it loses e where k is large.
    """
    still = items.detach()
    return still + (items - still) * inclusion.reciprocal()[:, None]


def linear_term(
    log_mass: Float[Tensor, "B"],
    mean: Float[Tensor, "B D"],
    queries: Float[Tensor, "B D"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, "B 1"]:
    """``log_mass`` of rows that are not encoded, with its gradient to queries and scale.

    The gradient to the scaled query is the rows' mean embedding. Exact for inner products; the
    backward pass holds [B, D].
    """
    linear = scale * (queries * mean).sum(dim=1)
    return (log_mass + (linear - linear.detach()))[:, None]
