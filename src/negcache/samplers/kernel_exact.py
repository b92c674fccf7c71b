"""Draws by a kernel, exactly, from a pass over all rows: the reference of kernel samplers."""

from dataclasses import replace

import torch

from negcache.functional.features import Kernel
from negcache.protocols import Cache, Draw, Law, Request, Score
from negcache.samplers.cached import CachedSoftmax
from negcache.shapes import Float, Int, Tensor


class ExactKernel:
    """Independent draws with ``q_b(y) = K(h_b, e_y) / sum_k K(h_b, e_k)``, in O(N D) a query.

    The reference for ``KernelSoftmax``, and the only way to draw by ``Quartic``, whose features are
    too many to sum. Source: Blanc & Rendle, ICML 2018.

    Args:
        cache: the rows drawn from.
        num_negatives: draws per query, m.
        kernel: what is drawn by.
    """

    has_density = True

    def __init__(self, cache: Cache, num_negatives: int, kernel: Kernel) -> None:
        self.sampler, self.kernel = CachedSoftmax(cache, num_negatives), kernel
        self.cache, self.num_negatives = cache, num_negatives

    @property
    def coverage(self) -> float:
        return self.cache.coverage

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        draw = self.sampler.draw(self._asked(request), generator)
        return replace(draw, log_z=None, log_share=None)

    def log_prob(
        self, request: Request, ids: Int[Tensor, "M"], law: Law | None = None
    ) -> Float[Tensor, "B M"]:
        return self.sampler.log_prob(self._asked(request), ids, law)

    def _asked(self, request: Request) -> Request:
        return replace(request, score=LogKernel(request.score, self.kernel))


class LogKernel:
    """A kernel of the raw inner products as if it were the score: its softmax is the kernel's law.

    Args:
        score: the score of the program; its scale is the kernel's.
        kernel: what is drawn by.
    """

    def __init__(self, score: Score, kernel: Kernel) -> None:
        self.score, self.kernel = score, kernel

    @property
    def scale(self) -> Tensor:
        return self.score.scale

    def embed(self, rows: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
        return self.score.embed(rows)

    def __call__(
        self,
        queries: Float[Tensor, "B D"],
        items: Float[Tensor, "M D"],
        out: Float[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B M"]:
        dots = torch.mm(queries, items.to(queries.dtype).T, out=out)
        logits = self.kernel.log_kernel(dots, self.scale)
        return logits if out is None else out.copy_(logits)

    def paired(
        self, queries: Float[Tensor, "B D"], items: Float[Tensor, "B m D"]
    ) -> Float[Tensor, "B m"]:
        dots = (items.to(queries.dtype) @ queries.unsqueeze(-1)).squeeze(-1)
        return self.kernel.log_kernel(dots, self.scale)
