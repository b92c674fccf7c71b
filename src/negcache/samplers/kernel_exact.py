"""Draws by a kernel, exactly, from a pass over all rows: the reference of kernel samplers."""

import torch

from negcache.interfaces import Proposal, Store
from negcache.messages import Request
from negcache.ops.kernels import Kernel
from negcache.samplers.cached import propose_softmax
from negcache.score import Score
from negcache.shapes import Float, Tensor
from negcache.stores.reading import scored_rows


class ExactKernel:
    """Independent draws with ``q_b(y) = K(h_b, e_y) / sum_k K(h_b, e_k)``, in O(N D) a query.

    The reference for ``KernelSoftmax``, and the only way to draw by ``Quartic``, whose features are
    too many to sum. Source: Blanc & Rendle, ICML 2018.

    Args:
        store: the rows drawn from.
        num_negatives: draws per query, m.
        kernel: what is drawn by.
    """

    has_density = True

    def __init__(self, store: Store, num_negatives: int, kernel: Kernel) -> None:
        self.store, self.num_negatives, self.kernel = store, num_negatives, kernel

    def propose(self, request: Request, generator: torch.Generator) -> Proposal:
        rows = scored_rows(request, self.store)
        rows = rows.under(LogKernel(rows.score, self.kernel))
        return propose_softmax(self.store, rows, self.num_negatives, is_softmax=False)


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
