"""Draws by a kernel, exactly, from a pass over all rows: the reference of kernel samplers."""

import torch

from negcache.interfaces import Proposal, Store
from negcache.messages import Request
from negcache.ops.kernels import Kernel
from negcache.samplers.cached import propose_softmax
from negcache.score import DotScore, Reshaped
from negcache.stores.reading import scored_rows

RAW = DotScore(1.0, normalize=False).requires_grad_(False)
"""Raw inner products, which kernels are functions of."""


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
        scale = request.score.scale
        log_kernel = Reshaped(RAW, lambda dots: self.kernel.log_kernel(dots, scale))
        rows = rows.under(log_kernel)
        return propose_softmax(self.store, rows, self.num_negatives, is_softmax=False)
