"""Draws from rows of masses: added up, then inverted at uniform numbers."""

import math
from typing import NamedTuple

import torch

from negcache.shapes import Float, Float64, Int, Tensor

LOG2_E = math.log2(math.e)
"""Powers of 2 are what CPUs have: ``exp(x) = 2^(x LOG2_E)``."""


class Cumulative(NamedTuple):
    """Masses of each row added up, in units of its largest, which is ``exp(log_unit)``."""

    sums: Float64[Tensor, "B n"]
    log_unit: Float[Tensor, "B"]

    @property
    def log_total(self) -> Float64[Tensor, "B"]:
        """log of each row's mass."""
        return self.sums[:, -1].log() + self.log_unit


def add_up(log_masses: Float[Tensor, "B n"]) -> Cumulative:
    """Cumulative masses, in float64."""
    peak = log_masses.amax(dim=1, keepdim=True).clamp_min(torch.finfo(log_masses.dtype).min)
    return Cumulative((log_masses - peak).double().exp_().cumsum_(dim=1), peak.squeeze(1))


def invert(
    cumulative: Float64[Tensor, "B n"], uniforms: Float[Tensor, "B m"]
) -> Int[Tensor, "B m"]:
    """The first entry whose cumulative mass passes u times the total.

    Entries of mass 0 are never returned while the row has any mass.
    """
    total = cumulative[:, -1:].contiguous()
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    place = torch.searchsorted(cumulative, target.contiguous(), right=True)
    return place.clamp_(max=cumulative.shape[1] - 1)


def invert_cdf(
    log_masses: Float[Tensor, "B n"], uniforms: Float[Tensor, "B m"]
) -> Int[Tensor, "B m"]:
    """As ``invert``, from the masses themselves."""
    return invert(add_up(log_masses).sums, uniforms)
