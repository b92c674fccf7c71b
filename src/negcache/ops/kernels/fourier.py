"""Random Fourier features of exp(nu <h, e>) on the unit sphere."""

import math
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


def fourier_features(
    rows: Float[Tensor, "M D"], frequencies: Float64[Tensor, "R D"]
) -> Float[Tensor, "M F"]:
    """[cos(W u), sin(W u)] / sqrt(R), F = 2 R."""
    angles = project(rows, frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1).div_(len(frequencies) ** 0.5)


@final
class Fourier:
    """K = exp(nu (<h, e> - 1)) = exp(-nu ||h - e||^2 / 2) for unit rows; F = 2 R.

    phi(u) = [cos(W u), sin(W u)] / sqrt(R), rows of W ~ N(0, nu I), drawn once. The product of two
    features has mean K and variance (1 - K^2)^2 / (2 R): the error sits on the tail, and a product
    may be negative. K itself is at least exp(-2 nu). The scale does not enter: nu is fixed.
    Source: Rahimi & Recht, NeurIPS 2007; Rawat et al., NeurIPS 2019.

    Args:
        dim: D of the embeddings.
        num_frequencies: R.
        nu: sharpness of the law; at most the scale of the score.
        seed: of the frequencies.
        orthogonal: frequencies orthogonal in blocks of D: unbiased too, and of lower variance.

    Example:
        >>> kernel, unit = Fourier(dim=2, num_frequencies=8, nu=1.0), torch.tensor([[0.6, 0.8]])
        >>> query = kernel.query_features(unit, torch.tensor(5.0))
        >>> round((query @ kernel.item_features(unit).T).item(), 3)
        1.0
    """

    def __init__(
        self,
        dim: int,
        num_frequencies: int,
        nu: float,
        *,
        seed: int = 0,
        orthogonal: bool = False,
    ) -> None:
        check_settings(dim, num_frequencies, nu)
        self.nu, self.orthogonal = nu, orthogonal
        draw = orthogonal_blocks if orthogonal else gaussian
        self.frequencies = draw(dim, num_frequencies, nu, seed)

    @property
    def smallest(self) -> float:
        return math.exp(-2 * self.nu)

    def num_features(self, dim: int) -> int:
        check_dim(dim, self.frequencies)
        return 2 * len(self.frequencies)

    def query_features(
        self, queries: Float[Tensor, "B D"], scale: Float[Tensor, ""]
    ) -> Float[Tensor, "B F"]:
        return fourier_features(queries, self.frequencies)

    def item_features(self, rows: Float[Tensor, "M D"]) -> Float[Tensor, "M F"]:
        return fourier_features(rows, self.frequencies)

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
