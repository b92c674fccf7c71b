"""What people use, through its own public interface, unmodified."""

import torch
from pytorch_metric_learning.losses import CrossBatchMemory, SupConLoss
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch.nn.functional import linear_cross_entropy

from benchmarks.equal_footing.regime import Contender
from benchmarks.equal_footing.texts.mining import MinedMnrl
from benchmarks.equal_footing.texts.objectives import TEMPERATURE, Peer, Setup
from benchmarks.equal_footing.texts.sentences import model, of_rows
from negcache.shapes import Tensor


class Mnrl(Peer):
    """sentence-transformers' ranking loss, of embeddings; batches as they come.

    Args:
        setup: of the run.
        directions: of its ``directions``: queries choose items, or items choose queries too.
    """

    def __init__(self, setup: Setup, directions: object) -> None:
        super().__init__(setup)
        both = ("query_to_doc", "doc_to_query") if directions == "both" else ("query_to_doc",)
        self.loss = MultipleNegativesRankingLoss(
            None,  # type: ignore[arg-type] # only its forward asks for a model
            scale=1 / TEMPERATURE,
            directions=both,
        )

    def __call__(self, rows: Tensor, positives: Tensor) -> Tensor:
        embeddings = [self.queries(rows), self.items(positives)]
        return self.loss.compute_loss_from_embeddings(embeddings, torch.empty(0))


class CachedMnrl(Peer):
    """The same over larger batches, in mini-batches of the others' size: GradCache.

    Args:
        setup: of the run.
        times: queries of a step, in batches of the others.
    """

    def __init__(self, setup: Setup, times: object) -> None:
        super().__init__(setup, int(str(times)))
        self.loss = CachedMultipleNegativesRankingLoss(
            model(setup), scale=1 / TEMPERATURE, mini_batch_size=setup.batch
        )

    def __call__(self, rows: Tensor, positives: Tensor) -> Tensor:
        self.encoded += 2 * len(positives)  # without gradient, then with it
        return self.loss([of_rows("query", rows), of_rows("item", positives)], torch.empty(0))


class CrossBatch(Peer):
    """pytorch-metric-learning's memory of earlier batches' items.

    Args:
        setup: of the run.
        memory: embeddings held.
    """

    def __init__(self, setup: Setup, memory: object) -> None:
        super().__init__(setup)
        inner = SupConLoss(temperature=TEMPERATURE)  # NTXentLoss is a hundred times slower here
        self.loss = CrossBatchMemory(inner, setup.problem.dim, memory_size=int(str(memory)))

    def __call__(self, rows: Tensor, positives: Tensor) -> Tensor:
        both = torch.cat([self.queries(rows), self.items(positives)])
        labels = torch.cat([positives, positives])
        return self.loss(both, labels)


class Exact(Peer):
    """torch's cross-entropy over all items, encoded anew at every step.

    Args:
        setup: of the run.
        smoothing: of its labels.
    """

    def __init__(self, setup: Setup, smoothing: object) -> None:
        super().__init__(setup)
        self.smoothing = float(str(smoothing))

    def __call__(self, rows: Tensor, positives: Tensor) -> Tensor:
        every = self.items(torch.arange(len(self.setup.problem.items)))
        scaled = self.queries(rows) / TEMPERATURE
        return linear_cross_entropy(scaled, every, positives, label_smoothing=self.smoothing)


METHODS = {
    "mnrl": Contender(Mnrl, ("queries", "both")),
    "cached_mnrl": Contender(CachedMnrl, (4, 16)),
    "mined_mnrl": Contender(MinedMnrl, (0.25, 0.5)),
    "cross_batch_memory": Contender(CrossBatch, (1024, 8192)),
    "exact": Contender(Exact, (0.0, 0.1), encodes_all=True),
}
