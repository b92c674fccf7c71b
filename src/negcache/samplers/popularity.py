"""Items as often as they occur: popular ones are harder, and are asked for more."""

import math

import torch

from negcache.errors import InputError
from negcache.functional.alias import build_alias, draw_alias
from negcache.functional.draws import use_columns
from negcache.protocols import Draw, Law, Request
from negcache.shapes import Float, Int, Tensor


class Popularity:
    """Independent draws with ``q(y) = counts_y^power / sum``, from an alias table, O(1) a draw.

    Hits on a query's positives are masked, with m and q unchanged, so the partition stays unbiased
    over items with a count: give every item one (``counts + 1``) to reach them all.
    Source: Mikolov et al. 2013 (power 0.75); Walker 1977.

    Args:
        counts: how often each item occurs [N], on the queries' device; 0: never drawn.
        num_negatives: draws per query, m; wrap in ``SharedDraws`` to share them over the batch.
        power: 1: popularity itself; 0: uniform over items that occur.
    """

    has_density = True
    coverage = 1.0  # of the items with a count
    cache = None

    def __init__(
        self, counts: Int[Tensor, "N"] | Float[Tensor, "N"], num_negatives: int, power: float = 0.75
    ) -> None:
        if not (counts.isfinite().all() and (counts >= 0).all() and (counts > 0).sum() > 1):
            raise InputError(
                "finite counts of 0 or more, two of them positive",
                f"from {float(counts.min())} to {float(counts.max())}, {int((counts > 0).sum())} "
                "positive",
                "count each item's training pairs, with one more for all to reach every item",
            )
        if num_negatives < 1:
            raise InputError("num_negatives of 1 or more", f"{num_negatives}", "draw at least one")
        weights = torch.where(counts > 0, counts.double().pow(power), 0.0)
        chances = weights / weights.sum()
        self.num_negatives, self.log_q = num_negatives, chances.log()
        self.table = build_alias(chances)

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        drawn = draw_alias(self.table, request.uniforms(generator, self.num_negatives, 2))
        weight = -(self.log_q[drawn] + math.log(self.num_negatives)).to(request.queries.dtype)
        rows = torch.arange(len(drawn), device=drawn.device)[:, None].expand_as(drawn)
        barred = request.exclude.contains(rows, drawn)
        return use_columns(drawn, weight.masked_fill(barred, -torch.inf))

    def log_prob(
        self, request: Request, ids: Int[Tensor, "M"], law: Law | None = None
    ) -> Float[Tensor, "B M"]:
        """log q(y), the same for every query that may draw the id."""
        barred = request.exclude.mask(ids)
        log_q = self.log_q[ids].to(request.queries.dtype)
        return log_q.expand(barred.shape).masked_fill(barred, -torch.inf)
