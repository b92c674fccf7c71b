"""Random features of exp(nu <h, e>) on the unit sphere: Fourier, or positive ones."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, final

import torch

from negcache.ops.kernels.frequencies import (
    check_dim,
    check_rows,
    check_settings,
    gaussian,
    loaded,
    orthogonal_blocks,
    project,
)
from negcache.ops.kernels.kernel import weighted_sums
from negcache.score import at_least_float32
from negcache.shapes import Float, Float64, Tensor

Features = Callable[[Float[Tensor, "M D"], Float64[Tensor, "R D"]], Float[Tensor, "M F"]]
"""(rows, frequencies) -> features of the rows."""


@final
class Exponential:
    """K = exp(nu (<h, e> - 1)) = exp(-nu ||h - e||^2 / 2) for unit rows, by random features.

    Build it by ``fourier`` or ``positive``. The frequencies are drawn once; K is at most 1 and at
    least exp(-2 nu). The scale of the score does not enter: nu is fixed.

    Args:
        frequencies: rows of W ~ N(0, nu I).
        nu: sharpness of the law; at most the scale of the score.
        features: of queries and items alike.
        per_frequency: features for each frequency.
    """

    def __init__(
        self,
        frequencies: Float64[Tensor, "R D"],
        nu: float,
        features: Features,
        per_frequency: int,
    ) -> None:
        self.frequencies, self.nu = frequencies, nu
        self.features, self.per_frequency = features, per_frequency

    @property
    def smallest(self) -> float:
        return math.exp(-2 * self.nu)

    def num_features(self, dim: int) -> int:
        check_dim(dim, self.frequencies)
        return self.per_frequency * len(self.frequencies)

    def query_features(
        self, queries: Float[Tensor, "B D"], scale: Float[Tensor, ""]
    ) -> Float[Tensor, "B F"]:
        return self.features(queries, self.frequencies)

    def item_features(self, rows: Float[Tensor, "M D"]) -> Float[Tensor, "M F"]:
        return self.features(rows, self.frequencies)

    def sum_features(
        self, blocks: Float[Tensor, "G c D"], weight: Float[Tensor, "G c"]
    ) -> Float[Tensor, "G F"]:
        width = self.num_features(blocks.shape[-1])
        return weighted_sums(self.item_features, blocks, weight, width)

    def kernel(
        self, dots: Float[Tensor, "*shape"], scale: Float[Tensor, ""]
    ) -> Float[Tensor, "*shape"]:
        return self.log_kernel(dots, scale).exp_()

    def log_kernel(
        self, dots: Float[Tensor, "*shape"], scale: Float[Tensor, ""]
    ) -> Float[Tensor, "*shape"]:
        return self.nu * (at_least_float32(dots) - 1)

    def check(self, rows: Float[Tensor, "M D"], scale: Float[Tensor, ""]) -> None:
        """Finite rows of unit norm; nu <= scale."""
        check_dim(rows.shape[1], self.frequencies)
        check_rows(rows, scale, self.nu)

    def state_dict(self) -> dict[str, Any]:
        return {"frequencies": self.frequencies, "nu": self.nu}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.frequencies = loaded(state, self.frequencies, self.nu)


def fourier(
    dim: int, num_frequencies: int, nu: float, *, seed: int = 0, orthogonal: bool = False
) -> Exponential:
    """phi(u) = [cos(W u), sin(W u)] / sqrt(R), F = 2 R.

    The product of two features has mean K and variance (1 - K^2)^2 / (2 R): the error sits on the
    tail, and a product may be negative.
    Source: Rahimi & Recht, NeurIPS 2007; Rawat et al., NeurIPS 2019.

    Args:
        dim: D of the embeddings.
        num_frequencies: R.
        nu: sharpness of the law; at most the scale of the score.
        seed: of the frequencies.
        orthogonal: frequencies orthogonal in blocks of D: unbiased too, and of lower variance.

    Examples:
        >>> kernel, unit = fourier(dim=2, num_frequencies=8, nu=1.0), torch.tensor([[0.6, 0.8]])
        >>> query = kernel.query_features(unit, torch.tensor(5.0))
        >>> round((query @ kernel.item_features(unit).T).item(), 3)
        1.0
    """
    check_settings(dim, num_frequencies, nu)
    frequencies = (orthogonal_blocks if orthogonal else gaussian)(dim, num_frequencies, nu, seed)
    return Exponential(frequencies, nu, fourier_features, 2)


def positive(
    dim: int, num_frequencies: int, nu: float, *, seed: int = 0, hyperbolic: bool = False
) -> Exponential:
    """Features that are never negative, so neither are sums of them.

    phi(u) = exp(W u - nu ||u||^2 / 2 - nu / 2) / sqrt(F). The factors exp(-nu / 2) on both sides
    bring the published exp(nu <h, e>) to the units of ``fourier``. With v = 2 nu (1 + <h, e>) the
    variance of a product of two features, relative to K^2, is (exp(v) - 1) / R, and
    (exp(v) - 2 + exp(-v)) / (2 R) where hyperbolic: the error sits on the head.
    Source: Choromanski et al., ICLR 2021.

    Args:
        dim: D of the embeddings.
        num_frequencies: R.
        nu: sharpness of the law; at most the scale of the score.
        seed: of the frequencies.
        hyperbolic: use -w beside every w: F = 2 R instead of R.
    """
    check_settings(dim, num_frequencies, nu)
    features = partial(positive_features, nu=nu, hyperbolic=hyperbolic)
    frequencies = gaussian(dim, num_frequencies, nu, seed)
    return Exponential(frequencies, nu, features, 2 if hyperbolic else 1)


def fourier_features(
    rows: Float[Tensor, "M D"], frequencies: Float64[Tensor, "R D"]
) -> Float[Tensor, "M F"]:
    """[cos(W u), sin(W u)] / sqrt(R), F = 2 R."""
    angles = project(rows, frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1).div_(len(frequencies) ** 0.5)


def positive_features(
    rows: Float[Tensor, "M D"], frequencies: Float64[Tensor, "R D"], nu: float, hyperbolic: bool
) -> Float[Tensor, "M F"]:
    """exp(W u - nu ||u||^2 / 2 - nu / 2) / sqrt(F), with -W beside W where ``hyperbolic``."""
    along = project(rows, frequencies)
    if hyperbolic:
        along = torch.cat([along, -along], dim=1)
    shift = nu / 2 * (at_least_float32(rows).square().sum(dim=1, keepdim=True) + 1)
    return (along - shift).exp().div_(along.shape[1] ** 0.5)
