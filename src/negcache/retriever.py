"""Query tower and loss as one module: what every trainer and every wrapper takes."""

from typing import Any

from torch import nn

from negcache.losses import SoftmaxLoss
from negcache.shapes import Float, Int, Tensor


class Retriever(nn.Module):
    """A two-tower model that returns its own loss, ``{"loss": ...}``.

    The form that Hugging Face's Trainer, Accelerate and Lightning train as it is, and that
    ``DistributedDataParallel`` must wrap, so that the gradients of both towers and of the score
    reach all processes. Its ``state_dict`` holds what the loss remembers.

    Args:
        loss_fn: owns the item tower, the corpus, the score and the store; say
            ``loss_fn.step_with(optimizer)`` once.
        query_tower: features -> (B, D); None: the item tower embeds queries too, and stands in the
            state once.

    Example:
        >>> import torch, negcache as nc
        >>> corpus = torch.randn(50, 4)
        >>> loss_fn = nc.SoftmaxLoss(nn.Linear(4, 2), corpus, nc.Uniform(corpus, 5), nc.DotScore())
        >>> sorted(nc.Retriever(loss_fn)(corpus[:3], positives=torch.arange(3)))
        ['loss']
    """

    def __init__(self, loss_fn: SoftmaxLoss, query_tower: nn.Module | None = None) -> None:
        super().__init__()
        self.loss_fn = loss_fn
        self.query_tower = None if query_tower is loss_fn.item_tower else query_tower

    def forward(
        self,
        queries: Any,
        positives: Int[Tensor, "B *p"] | None = None,
        query_ids: Int[Tensor, "B"] | None = None,
        negatives: Int[Tensor, "B h"] | None = None,
        weight: Float[Tensor, "B"] | None = None,
        return_loss: bool = True,  # the name by which Hugging Face's Trainer knows who has a loss
    ) -> dict[str, Tensor]:
        """The loss of a batch; the names are those of the batch's columns.

        Args:
            queries: features of the query tower.
            positives: the target item of each query, or several, padded with -1.
            query_ids: rows of the loss' known positives.
            negatives: your own, [B, h] padded with -1.
            weight: of each query.
            return_loss: False: ``{"embeddings": ...}`` of the queries instead, [B, D].
        """
        tower = self.loss_fn.item_tower if self.query_tower is None else self.query_tower
        rows = tower(queries)
        if not return_loss or positives is None:
            return {"embeddings": self.loss_fn.score.embed(rows)}
        return {"loss": self.loss_fn(rows, positives, query_ids, negatives, weight=weight)}
