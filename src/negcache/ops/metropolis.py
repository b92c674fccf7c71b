"""Independence Metropolis-Hastings: chains whose proposals do not depend on where they are.

With t = s~ - V, the log of P / Q up to a constant, a move from x to y is accepted with chance
``min(1, exp(t_y - t_x))``: no normaliser is needed. Source: Monath et al., AISTATS 2023.
"""

from typing import NamedTuple

import torch

from negcache.shapes import Bool, Float, Float64, Int, Tensor


class Walked(NamedTuple):
    """Where chains ended, as numbers of their proposals, and which moves they accepted."""

    ends: Int[Tensor, "B m"]
    accepted: Bool[Tensor, "B m moves"]


def log_acceptance(
    here: Float64[Tensor, "*n"], there: Float64[Tensor, "*n"]
) -> Float64[Tensor, "*n"]:
    """log of the chance that a move from t = ``here`` to t = ``there`` is accepted.

    What may not be proposed has t = -inf: never accepted, and left at once.
    """
    rise = (there - here).clamp(max=0.0)
    return rise.masked_fill(there == -torch.inf, -torch.inf)


def walk(log_ratios: Float64[Tensor, "B m s"], uniforms: Float64[Tensor, "B m s"]) -> Walked:
    """Chains of s states: the first proposal, then s - 1 moves.

    Args:
        log_ratios: t of each proposal, in order.
        uniforms: in [0, 1); that of the first proposal is not used.
    """
    here = log_ratios[..., 0]
    ends, accepted = torch.zeros_like(here, dtype=torch.long), []
    for move in range(1, log_ratios.shape[2]):
        there = log_ratios[..., move]
        taken = uniforms[..., move] < log_acceptance(here, there).exp()
        here, ends = there.where(taken, here), ends.masked_fill(taken, move)
        accepted.append(taken)
    moves = torch.stack(accepted, dim=2) if accepted else ends.new_zeros(*ends.shape, 0).bool()
    return Walked(ends, moves)


def log_partition(
    log_ratios: Float64[Tensor, "B n"], log_norm: Float64[Tensor, "B"]
) -> Float64[Tensor, "B"]:
    """log of the mean of ``exp(s~) / q`` over the proposals of each query that may stand for it.

    Where any is left the estimate of the stale partition is unbiased; else it is -inf.

    Args:
        log_ratios: t = s~ - V; -inf where an item may not stand for the query.
        log_norm: log of the sum of exp(V) over all items that may.
    """
    count = (log_ratios > -torch.inf).sum(dim=1)
    mean = torch.logsumexp(log_ratios, dim=1) - count.clamp_min(1).double().log()
    return (mean + log_norm).masked_fill(count == 0, -torch.inf)


def total_variation_bound(log_gamma: Float[Tensor, "B"], chain: int) -> Float[Tensor, "B"]:
    """``exp(-(s - 1) / gamma)``: how far the law of a chain's end can be from P."""
    return torch.exp(-(chain - 1) * torch.exp(-log_gamma))
