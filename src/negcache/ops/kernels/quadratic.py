"""Kernels of a squared and of a fourth-power logit (Blanc & Rendle, ICML 2018)."""

import math
from functools import lru_cache
from typing import Any, final

import torch

from negcache.errors import InputError
from negcache.ops.kernels.kernel import BLOCK
from negcache.score import at_least_float32
from negcache.shapes import Float, Float64, Int, Tensor
from negcache.validation import check_finite


def packed(rows: Float[Tensor, "M D"], weight: Float[Tensor, ""] | None = None) -> Tensor:
    """``[weight u_i u_j for i <= j, 1]``, [M, F], off-diagonals times sqrt 2.

    ``<packed(a, w), packed(b)> = w <a, b>^2 + 1`` and F = D (D + 1) / 2 + 1. Laid out by columns.
    """
    rows = at_least_float32(rows)
    first, second, factor = _upper_triangle(rows.shape[1], rows.device)
    factor = factor.to(rows.dtype) if weight is None else factor.to(rows.dtype) * weight
    products = torch.cat([rows.T, rows.new_ones(1, len(rows))])  # the last times itself is the 1
    products = products.index_select(0, first) * products.index_select(0, second)
    products[:-1] *= factor[:, None]
    return products.T


def packed_sums(
    blocks: Float[Tensor, "G c D"], weight: Float[Tensor, "G c"]
) -> Float[Tensor, "G F"]:
    """``sum_c weight_gc packed(e_gc)`` through matrices ``(E w)^T E``, some blocks at a time."""
    blocks = at_least_float32(blocks)
    count, size, dim = blocks.shape
    first, second, factor = _upper_triangle(dim, blocks.device)
    place, factor = first[:-1] * dim + second[:-1], factor.to(blocks.dtype)
    total = blocks.new_empty(count, len(first))
    total[:, -1] = weight.to(blocks.dtype).sum(dim=1)
    step = max(1, BLOCK // (dim * max(size, dim)))
    for start in range(0, count, step):
        block = slice(start, start + step)
        weighted = blocks[block]
        if not (weight[block] == 1).all():
            weighted = weighted * weight[block, :, None].to(blocks.dtype)
        with torch.autocast(blocks.device.type, enabled=False):
            moments = torch.bmm(weighted.mT, blocks[block])
        total[block, :-1] = moments.flatten(1).index_select(1, place).mul_(factor)
    return total


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _upper_triangle(
    dim: int, device: torch.device
) -> tuple[Int[Tensor, "F"], Int[Tensor, "F"], Float64[Tensor, "f"]]:
    """Row and column of each packed entry, the constant last, and the factors of the others."""
    first, second = torch.triu_indices(dim, dim, device=device)
    factor = torch.full_like(first, math.sqrt(2.0), dtype=torch.float64)
    factor[first == second] = 1.0
    constant = first.new_full((1,), dim)
    return torch.cat([first, constant]), torch.cat([second, constant]), factor


@final
class Quadratic:
    """K = alpha s^2 + 1 of the logit s = scale <h, e>; exact features, F = D (D + 1) / 2 + 1.

    Even in s: a large negative logit weighs as much as a large positive one. Alpha and the scale
    multiply the query's features; those of an item are packed(e) and 1.
    Source: Blanc & Rendle, ICML 2018 (alpha = 100 there).

    Args:
        alpha: of the squared logit against the constant 1.

    Examples:
        >>> kernel, scale = Quadratic(alpha=2.0), torch.tensor(3.0)
        >>> query, item = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, -1.0]])
        >>> features = kernel.query_features(query, scale), kernel.item_features(item)
        >>> round((features[0] @ features[1].T).item(), 3)  # 2 (3 * -1)^2 + 1
        19.0
    """

    smallest = 1.0

    def __init__(self, alpha: float = 100.0) -> None:
        if not 0 < alpha < math.inf:
            raise InputError("alpha > 0", f"{alpha}", "100 is the published choice")
        self.alpha = alpha

    def num_features(self, dim: int) -> int:
        return dim * (dim + 1) // 2 + 1

    def query_features(
        self, queries: Float[Tensor, "B D"], scale: Float[Tensor, ""]
    ) -> Float[Tensor, "B F"]:
        """[alpha scale^2 packed(h), 1]."""
        queries = at_least_float32(queries)
        return packed(queries, self.alpha * scale.to(queries).square())

    def item_features(self, rows: Float[Tensor, "M D"]) -> Float[Tensor, "M F"]:
        """[packed(e), 1]."""
        return packed(rows)

    def sum_features(
        self, blocks: Float[Tensor, "G c D"], weight: Float[Tensor, "G c"]
    ) -> Float[Tensor, "G F"]:
        """[packed upper triangle of sum_c w e e^T, sum_c w]: one batched matrix product."""
        return packed_sums(blocks, weight)

    def kernel(
        self, dots: Float[Tensor, "*shape"], scale: Float[Tensor, ""]
    ) -> Float[Tensor, "*shape"]:
        dots = at_least_float32(dots)
        return (dots * scale.to(dots)).square_().mul_(self.alpha).add_(1.0)

    def log_kernel(
        self, dots: Float[Tensor, "*shape"], scale: Float[Tensor, ""]
    ) -> Float[Tensor, "*shape"]:
        dots = at_least_float32(dots)
        return torch.log1p(self.alpha * (dots * scale.to(dots)).square())

    def check(self, rows: Float[Tensor, "M D"], scale: Float[Tensor, ""]) -> None:
        """Any finite rows, any scale."""
        check_finite(rows)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is nothing to load."""


@final
class Quartic:
    """K = s^4 + 1 of the logit s = scale <h, e>; for samplers that evaluate every item.

    It has features, F = C(D + 3, 4) + 1, 766,481 at D = 64: too many to sum. Whatever asks for
    them is refused. Source: Blanc & Rendle, ICML 2018.
    """

    smallest = 1.0

    def num_features(self, dim: int) -> int:
        raise InputError(
            "a kernel whose features can be summed",
            f"Quartic, which needs {math.comb(dim + 3, 4) + 1:,} features at D = {dim}",
            "take the reference sampler, which evaluates the kernel for all N items, or Quadratic",
        )

    def query_features(
        self, queries: Float[Tensor, "B D"], scale: Float[Tensor, ""]
    ) -> Float[Tensor, "B F"]:
        """Refused, as are the features of items and their sums."""
        return queries.new_empty(len(queries), self.num_features(queries.shape[-1]))

    def item_features(self, rows: Float[Tensor, "M D"]) -> Float[Tensor, "M F"]:
        return rows.new_empty(len(rows), self.num_features(rows.shape[-1]))

    def sum_features(
        self, blocks: Float[Tensor, "G c D"], weight: Float[Tensor, "G c"]
    ) -> Float[Tensor, "G F"]:
        return blocks.new_empty(len(blocks), self.num_features(blocks.shape[-1]))

    def kernel(
        self, dots: Float[Tensor, "*shape"], scale: Float[Tensor, ""]
    ) -> Float[Tensor, "*shape"]:
        dots = at_least_float32(dots)
        return (dots * scale.to(dots)).pow_(4).add_(1.0)

    def log_kernel(
        self, dots: Float[Tensor, "*shape"], scale: Float[Tensor, ""]
    ) -> Float[Tensor, "*shape"]:
        dots = at_least_float32(dots)
        return torch.log1p((dots * scale.to(dots)).pow(4))

    def check(self, rows: Float[Tensor, "M D"], scale: Float[Tensor, ""]) -> None:
        """Any finite rows, any scale."""
        check_finite(rows)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is nothing to load."""
