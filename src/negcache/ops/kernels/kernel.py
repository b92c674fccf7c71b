"""What a kernel must offer, and the blocked sum of item features that kernels share.

A kernel K(h, e) >= 0 of a raw inner product factors into features: K = <phi(h), phi(e)>. Then
``sum_j w_j K(h, e_j) = <phi(h), sum_j w_j phi(e_j)>``, so the mass of a block of items costs one
inner product with its summed features, however many items it holds.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch

from negcache.score import at_least_float32
from negcache.shapes import Float, Tensor

BLOCK = 1 << 22
"""Numbers that a sum of features holds at a time beside its result (16 MB in float32)."""


@runtime_checkable
class Kernel(Protocol):
    """A kernel of raw inner products and its features, F per row; float32 at least.

    ``query_features @ item_features.T`` equals ``exp(log_kernel)``, or does so in expectation over
    the frequencies of random features. What changes in training (the scale) and what is a setting
    of the law (alpha) stand on the query side: sums of item features do not age with the scale.
    """

    @property
    def smallest(self) -> float:
        """The least value of the exact kernel for one item; node masses are clipped at it."""
        ...

    def num_features(self, dim: int) -> int:
        """F for embeddings of ``dim`` dimensions."""
        ...

    def query_features(
        self, queries: Float[Tensor, "B D"], scale: Float[Tensor, ""]
    ) -> Float[Tensor, "B F"]: ...

    def item_features(self, rows: Float[Tensor, "M D"]) -> Float[Tensor, "M F"]: ...

    def sum_features(
        self, blocks: Float[Tensor, "G c D"], weight: Float[Tensor, "G c"]
    ) -> Float[Tensor, "G F"]:
        """``sum_c weight_gc phi(e_gc)``; rows of weight 0 must be finite too."""
        ...

    def kernel(
        self, dots: Float[Tensor, "*shape"], scale: Float[Tensor, ""]
    ) -> Float[Tensor, "*shape"]:
        """K, exact, from raw inner products <h, e>."""
        ...

    def log_kernel(
        self, dots: Float[Tensor, "*shape"], scale: Float[Tensor, ""]
    ) -> Float[Tensor, "*shape"]:
        """log K, exact, from raw inner products <h, e>."""
        ...

    def check(self, rows: Float[Tensor, "M D"], scale: Float[Tensor, ""]) -> None:
        """Refuse embeddings or a scale that the kernel is not made for."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def weighted_sums(
    features: Callable[[Float[Tensor, "n D"]], Float[Tensor, "n F"]],
    blocks: Float[Tensor, "G c D"],
    weight: Float[Tensor, "G c"],
    num_features: int,
) -> Float[Tensor, "G F"]:
    """``sum_c weight_gc features(e_gc)``; beside the result it holds about ``BLOCK`` numbers.

    Args:
        features: of rows; evaluated on blocks of them.
    """
    blocks = at_least_float32(blocks)
    total = blocks.new_zeros(len(blocks), num_features)
    rows = max(1, BLOCK // num_features)
    step = max(1, rows // max(1, blocks.shape[1]))
    for first in range(0, len(blocks), step):
        block = slice(first, first + step)
        parts = zip(blocks[block].split(rows, 1), weight[block].split(rows, 1), strict=True)
        for some, weights in parts:
            found = features(some.flatten(0, 1)).unflatten(0, some.shape[:2])
            with torch.autocast(found.device.type, enabled=False):
                total[block] += torch.bmm(weights[:, None].to(found.dtype), found).squeeze(1)
    return total
