"""Items as often as they occur: popular ones are harder, and are asked for more."""

from collections.abc import Sized

import torch

from negcache.errors import InputError
from negcache.interfaces import Noise, Proposal
from negcache.messages import Request
from negcache.ops.alias import AliasTable, build_alias, draw_alias
from negcache.ops.uniform import log_sum_of_allowed
from negcache.shapes import Float, Float64, Int, Tensor
from negcache.validation import count_items


class Popularity:
    """Independent draws with ``q(y) = counts_y^power / sum``, from an alias table, O(1) a draw.

    Hits on a query's positives are masked, with m and q unchanged: the partition stays unbiased.
    Source: Mikolov et al. 2013 (power 0.75); Walker 1977.

    Args:
        counts: how often each item occurs [N], above 0.
        num_negatives: draws per query, m; wrap in ``SharedDraws`` to share them over the batch.
        power: 1: popularity itself (the unigram law); 0: uniform.
    """

    has_density = True
    store = None

    def __init__(
        self, counts: Int[Tensor, "N"] | Float[Tensor, "N"], num_negatives: int, power: float = 0.75
    ) -> None:
        short = ((counts > 0) & counts.isfinite()).logical_not().nonzero().flatten()
        if len(short) or len(counts) < 2:
            raise InputError(
                "finite counts above 0, two of them or more",
                f"{len(short)} of {len(counts)} without, the first {short[:1].tolist()}",
                "add one to every count: what is never drawn is never pushed away",
            )
        if num_negatives < 1:
            raise InputError("num_negatives of 1 or more", f"{num_negatives}", "draw at least one")
        weights = counts.double().pow(power)
        chances = weights / weights.sum()
        self.num_negatives, self.log_q = num_negatives, chances.log()
        self.table = build_alias(chances)

    def propose(self, request: Request, generator: torch.Generator) -> Proposal:
        request.over(len(self.log_q))
        self._move_to(request.queries.device)
        log_q, table = self.log_q, self.table

        def draw(noise: Noise) -> tuple[Int[Tensor, "B m"], Float[Tensor, "B m"]]:
            ids = draw_alias(table, noise(self.num_negatives, 2))
            return ids, log_q[ids]

        def log_prob(ids: Int[Tensor, "M"]) -> Float[Tensor, "B M"]:
            return log_q[ids].expand(len(request.queries), -1)

        def log_expected(ids: Int[Tensor, "M"], _: Tensor | None) -> Float64[Tensor, "M"]:
            alike = log_q.new_zeros(len(request.queries))
            return log_sum_of_allowed(alike, request.exclude, ids) + log_q[ids]

        return Proposal(draw, log_prob, log_expected=log_expected)

    def _move_to(self, device: torch.device) -> None:
        """The tables move to where the queries are."""
        if self.log_q.device != device:
            self.log_q = self.log_q.to(device)
            self.table = AliasTable(*(part.to(device) for part in self.table))


def log_uniform(items: Sized, num_negatives: int) -> Popularity:
    """``q(k) = log((k + 2) / (k + 1)) / log(N + 1)``: Zipf's law for items sorted by frequency.

    That of ``tf.random.log_uniform_candidate_sampler``; item 0 is the most frequent.
    """
    rank = torch.arange(count_items(items), dtype=torch.float64)
    return Popularity(torch.log1p(1 / (rank + 1)), num_negatives, power=1.0)
