"""What stands for the corpus where nobody says otherwise."""

import torch

from negcache.interfaces import Store
from negcache.messages import Draw, Request
from negcache.samplers import CachedSoftmax, SharedDraws
from negcache.shapes import Float, Tensor


class CorpusDraws:
    """Shared draws from the stored softmax; in training the batch's positives join them.

    How often a positive is met is known of training batches alone. In those of an evaluation, of
    other queries, the share of its items is another, and the loss would come out too large.

    Args:
        store: of the whole corpus.
        num_negatives: draws per query; all queries share them.
        log_popularity: log of each item's share of the training positives.
    """

    has_density = False

    def __init__(
        self, store: Store, num_negatives: int, log_popularity: Float[Tensor, "N"]
    ) -> None:
        drawn = CachedSoftmax(store, num_negatives)
        self.store, self.num_negatives = store, num_negatives
        self.alone = SharedDraws(drawn)
        self.joined = SharedDraws(drawn, log_popularity=log_popularity)

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        chosen = self.joined if torch.is_grad_enabled() else self.alone
        return chosen.draw(request, generator)
