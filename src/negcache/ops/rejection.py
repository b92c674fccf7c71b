"""Flat rejection: exact draws from the softmax of cached scores, by clusters raised by radius.

A cluster is drawn by ``n_c exp(V_c + lipschitz r_c)``, a member y by chance, and y is kept with
chance ``exp(s~_y - V_c - lipschitz r_c)``; else one begins again.
Source: Monath et al., AISTATS 2023.
"""

from typing import NamedTuple

import torch

from negcache.errors import InputError
from negcache.shapes import Bool, Float64, Int, Tensor

TOLERANCE = 1e-3
"""What rounding may put a score above its envelope, in nats, however small the logits."""

ROUNDINGS = 16
"""Units in the last place of the largest logit that rounding may add to it."""

TF32 = 2.0**-10
"""The spacing of TF32 at 1, to which a GPU may round the factors of float32 products."""


class Accepted(NamedTuple):
    """The first proposal of each row that was kept; whether there was one."""

    ends: Int[Tensor, "B m"]
    found: Bool[Tensor, "B m"]


def spacing(dtype: torch.dtype, device: torch.device) -> float:
    """The spacing at 1 of what products are worked out in."""
    tf32 = device.type == "cuda" and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return TF32 if tf32 and dtype == torch.float32 else torch.finfo(dtype).eps


def tolerance(envelope: Float64[Tensor, "B W"], eps: float) -> float:
    """What rounding may put a score above its envelope, in nats.

    Args:
        envelope: V + lipschitz r of the clusters; -inf where a query does not use one.
        eps: the spacing at 1 of what scores were worked out in.
    """
    sizes = envelope.abs().masked_fill(~envelope.isfinite(), 0.0)
    return TOLERANCE + ROUNDINGS * eps * (float(sizes.max()) if sizes.numel() else 0.0)


def log_keep(
    log_ratios: Float64[Tensor, "*n"], tolerated: float = TOLERANCE
) -> Float64[Tensor, "*n"]:
    """log of the chance that a proposal is kept: t itself, since the envelope is above the score.

    Args:
        log_ratios: t = s~ - V - lipschitz r; -inf for what may not stand for the query.
        tolerated: what a score may be above its envelope; it then counts as equal to it.

    Raises:
        InputError: a score above its envelope; the draws would not follow the softmax.
    """
    over = float(log_ratios.max()) if log_ratios.numel() else 0.0
    if over > tolerated:
        raise InputError(
            "scores within scale x norm x radius of their cluster's centre",
            f"one that is {over:.2g} nats above",
            "use DynamicIndexChain, which needs no radius",
        )
    return log_ratios.clamp(max=0.0)


def first_kept(
    log_ratios: Float64[Tensor, "B m s"],
    uniforms: Float64[Tensor, "B m s"],
    tolerated: float = TOLERANCE,
) -> Accepted:
    """The first of s proposals that is kept; arguments as for ``log_keep``."""
    kept = uniforms < log_keep(log_ratios, tolerated).exp()
    return Accepted(kept.long().argmax(dim=2), kept.any(dim=2))


def log_shares(
    found: Bool[Tensor, "B m"],
    log_ratios: Float64[Tensor, "B m"],
    log_norm: Float64[Tensor, "B"],
    log_z: Float64[Tensor, "B"],
) -> Float64[Tensor, "B m"]:
    """log-shares of draws of which some are exact, and the others stand by their importance.

    Args:
        found: the draw came by rejection, from the softmax itself; the others come from Q.
        log_ratios: t of each draw; -inf where it may not stand for the query.
        log_norm: log of the sum of exp(V + lipschitz r) over all items that may.
        log_z: the estimate of the partition; -inf: there is none, and no draw counts.
    """
    importance = log_ratios + (log_norm - log_z)[:, None]
    masked = (log_ratios == -torch.inf) | (log_z == -torch.inf)[:, None]
    unnormalised = importance.masked_fill(found, 0.0).masked_fill(masked, -torch.inf)
    total = torch.logsumexp(unnormalised, dim=1, keepdim=True)
    return (unnormalised - total).masked_fill(masked, -torch.inf)
