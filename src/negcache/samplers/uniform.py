"""Every item that is not a positive, with equal chance. The sampler to copy."""

from collections.abc import Sized

import torch

from negcache.errors import InputError
from negcache.interfaces import Noise, Proposal
from negcache.messages import Request
from negcache.ops.uniform import draw_allowed, log_sum_of_allowed
from negcache.shapes import Float, Float64, Int, Tensor
from negcache.validation import count_items


class Uniform:
    """Independent uniform draws for each query, ``q_b(y) = 1 / (N - excluded_b)``.

    Args:
        items: what is drawn from: a corpus, a cache, anything of length N.
        num_negatives: draws per query, m; wrap in ``SharedDraws`` to share them over the batch.
    """

    has_density = True
    store = None

    def __init__(self, items: Sized, num_negatives: int) -> None:
        self.num_items, self.num_negatives = count_items(items), num_negatives
        if not 1 <= num_negatives <= self.num_items:
            raise InputError(
                f"num_negatives between 1 and the {self.num_items} items",
                f"{num_negatives}",
                "draw fewer, or use FullSoftmax",
            )

    def propose(self, request: Request, generator: torch.Generator) -> Proposal:
        request.over(self.num_items)
        log_mass = (self.num_items - request.exclude.counts).to(request.queries.dtype).log()
        log_q = -log_mass.masked_fill(log_mass == -torch.inf, torch.inf)[:, None]

        def draw(noise: Noise) -> tuple[Int[Tensor, "B m"], Float[Tensor, "B m"]]:
            ids = draw_allowed(request.exclude, self.num_items, noise(self.num_negatives))
            return ids, log_q.expand(ids.shape)

        def log_prob(ids: Int[Tensor, "M"]) -> Float[Tensor, "B M"]:
            return log_q.expand(-1, len(ids))

        def log_expected(ids: Int[Tensor, "M"], _: Tensor | None) -> Float64[Tensor, "M"]:
            return log_sum_of_allowed(log_q.squeeze(1), request.exclude, ids)

        return Proposal(draw, log_prob, log_mass, log_expected=log_expected, leaves_out=True)
