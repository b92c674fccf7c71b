"""The other queries' positives, with the log-q correction for their popularity."""

import warnings

import torch

from negcache.messages import Draw, Request
from negcache.pooled import alike
from negcache.shapes import Float, Tensor
from negcache.validation import check_popularity


class InBatch:
    """Other positives of the batch stand for each query; nothing more is encoded.

    With popularities, ``w_bj = log c_bj - log((B - 1) pi_j)``: unbiased for Z- if batches are
    drawn from pi and pi reaches every item. Without, w_bj = log c_bj: the plain in-batch softmax,
    which estimates no partition function. The query's own positive is always present, not sampled,
    and is left uncorrected; a batch of one query has no negatives. Source: Yi et al., RecSys 2019;
    Khrylchenko et al. 2025.

    Args:
        log_popularity: log pi of every item [N]: its share of training positives, -inf for none:
            such an item stands for no query; None: plain.
    """

    has_density = False
    store = None

    def __init__(self, log_popularity: Float[Tensor, "N"] | None = None) -> None:
        if log_popularity is not None:
            check_popularity(log_popularity)
        self.log_popularity, self._warned = log_popularity, False

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        self._warn_of_one(len(request.queries))
        ids, counts = torch.unique(request.targets, return_counts=True)
        weight = counts.to(request.queries.dtype).log()  # c equal entries are one of weight log c
        if self.log_popularity is not None:
            request.over(len(self.log_popularity))
            log_pi = self.log_popularity.to(weight)[ids]
            others = alike(request.others).clamp_min(1).to(weight).log()
            weight = (weight - log_pi - others).masked_fill(log_pi == -torch.inf, -torch.inf)
        own = request.exclude.within(ids)  # the query's own positive
        return Draw(ids, None, weight, masked=own)

    def _warn_of_one(self, num_queries: int) -> None:
        """Once: a loss of 0 looks like success."""
        if num_queries == 1 and not self._warned:
            self._warned = True
            warnings.warn(
                "InBatch: a batch of one query has no negatives, its loss is 0; use larger batches",
                stacklevel=3,
            )
