"""The user's own negatives: mined, shown and not clicked, or written by hand."""

import torch

from negcache.draws import given
from negcache.errors import InputError
from negcache.messages import Draw, Request
from negcache.shapes import Int, Tensor
from negcache.validation import check_ids


class Given:
    """Fixed negatives of one batch, each standing for itself alone (weight 0).

    ``SoftmaxLoss`` accepts negatives beside its sampler and then excludes them from the sampler's
    draw; this class is for using them alone.

    Args:
        negatives: item ids of each query, padded with -1; known positives among them are masked.
    """

    has_density = False
    store = None

    def __init__(self, negatives: Int[Tensor, "B h"]) -> None:
        self.negatives = negatives

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        if len(self.negatives) != len(request.positives):
            raise InputError(
                f"negatives for the {len(request.positives)} queries of the batch",
                f"{len(self.negatives)} rows",
                "build Given anew for each batch; among several processes give them to the loss, "
                "negatives=",
            )
        if request.num_items is not None:
            check_ids(self.negatives[self.negatives >= 0], request.num_items)
        return given(self.negatives, request.exclude, request.queries.dtype)
