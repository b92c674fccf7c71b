"""Positive random features of exp(nu <h, e>) on the unit sphere."""

import math
from typing import Any, final

import torch

from negcache.ops.kernels.frequencies import (
    check_dim,
    check_rows,
    check_settings,
    gaussian,
    loaded,
    project,
)
from negcache.ops.kernels.kernel import weighted_sums
from negcache.score import at_least_float32
from negcache.shapes import Float, Float64, Tensor


def positive_features(
    rows: Float[Tensor, "M D"], frequencies: Float64[Tensor, "R D"], nu: float, hyperbolic: bool
) -> Float[Tensor, "M F"]:
    """exp(W u - nu ||u||^2 / 2 - nu / 2) / sqrt(F), with -W beside W where ``hyperbolic``."""
    along = project(rows, frequencies)
    if hyperbolic:
        along = torch.cat([along, -along], dim=1)
    shift = nu / 2 * (at_least_float32(rows).square().sum(dim=1, keepdim=True) + 1)
    return (along - shift).exp().div_(along.shape[1] ** 0.5)


@final
class Positive:
    """K = exp(nu (<h, e> - 1)); features that are never negative, so neither are sums of them.

    phi(u) = exp(W u - nu ||u||^2 / 2 - nu / 2) / sqrt(F), rows of W ~ N(0, nu I), drawn once. The
    factors exp(-nu / 2) on both sides bring the published exp(nu <h, e>) to the units of
    ``Fourier``, so K is at most 1 and at least exp(-2 nu). With v = 2 nu (1 + <h, e>) the variance
    of a product of two features, relative to K^2, is (exp(v) - 1) / R, and
    (exp(v) - 2 + exp(-v)) / (2 R) where hyperbolic: the error sits on the head.
    Source: Choromanski et al., ICLR 2021.

    Args:
        dim: D of the embeddings.
        num_frequencies: R.
        nu: sharpness of the law; at most the scale of the score.
        seed: of the frequencies.
        hyperbolic: use -w beside every w: F = 2 R instead of R.
    """

    def __init__(
        self,
        dim: int,
        num_frequencies: int,
        nu: float,
        *,
        seed: int = 0,
        hyperbolic: bool = False,
    ) -> None:
        check_settings(dim, num_frequencies, nu)
        self.nu, self.hyperbolic = nu, hyperbolic
        self.frequencies = gaussian(dim, num_frequencies, nu, seed)

    @property
    def smallest(self) -> float:
        return math.exp(-2 * self.nu)

    def num_features(self, dim: int) -> int:
        check_dim(dim, self.frequencies)
        return (2 if self.hyperbolic else 1) * len(self.frequencies)

    def query_features(
        self, queries: Float[Tensor, "B D"], scale: Float[Tensor, ""]
    ) -> Float[Tensor, "B F"]:
        return self.item_features(queries)

    def item_features(self, rows: Float[Tensor, "M D"]) -> Float[Tensor, "M F"]:
        return positive_features(rows, self.frequencies, self.nu, self.hyperbolic)

    def sum_features(
        self, blocks: Float[Tensor, "G c D"], weight: Float[Tensor, "G c"]
    ) -> Float[Tensor, "G F"]:
        return weighted_sums(
            self.item_features, blocks, weight, self.num_features(blocks.shape[-1])
        )

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
