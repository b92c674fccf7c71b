"""Query tower and loss as one module: what every trainer and every wrapper takes."""

from typing import Any

from torch import nn

from negcache.errors import InputError
from negcache.losses import SoftmaxLoss
from negcache.shapes import Float, Int, Tensor


class Retriever(nn.Module):
    """A two-tower model that returns its own loss, ``{"loss": ...}``.

    The form that Hugging Face's Trainer, Accelerate and Lightning train as it is, and that
    ``DistributedDataParallel`` must wrap, so that the gradients of both towers and of the score
    reach all processes. Its ``state_dict`` holds what the loss remembers, and a tensor that both
    towers share once, under its name in the loss: safetensors refuses the same one twice.

    Args:
        loss_fn: owns the item tower, the corpus, the score and the store; say
            ``loss_fn.step_with(optimizer)`` once.
        query_tower: features -> (B, D); None: the item tower embeds queries too, and stands in the
            state once.

    Examples:
        >>> import torch, negcache as nc
        >>> corpus = torch.randn(50, 4)
        >>> loss_fn = nc.SoftmaxLoss(nn.Linear(4, 2), corpus, nc.Uniform(corpus, 5), nc.DotScore())
        >>> sorted(nc.Retriever(loss_fn)(corpus[:3], positives=torch.arange(3)))
        ['loss']
    """

    def __init__(self, loss_fn: SoftmaxLoss, query_tower: nn.Module | None = None) -> None:
        super().__init__()
        if not isinstance(loss_fn, SoftmaxLoss):
            raise InputError(
                "a SoftmaxLoss, then its query tower",
                type(loss_fn).__name__,
                "Retriever(loss_fn, query_tower)",
            )
        self.loss_fn = loss_fn
        self.query_tower = None if query_tower is loss_fn.item_tower else query_tower
        self.register_state_dict_post_hook(_leave_twins_out)
        self.register_load_state_dict_pre_hook(_name_twins)

    def forward(
        self,
        queries: Any,
        positives: Int[Tensor, "B *p"] | None = None,
        query_ids: Int[Tensor, "B"] | None = None,
        negatives: Int[Tensor, "B h"] | None = None,
        *,
        weight: Float[Tensor, "B"] | None = None,
        exclude: Int[Tensor, "B x"] | None = None,
        return_loss: bool = True,  # the name by which Hugging Face's Trainer knows who has a loss
    ) -> dict[str, Tensor]:
        """The loss of a batch; the names are those of the batch's columns.

        Args:
            queries: features of the query tower.
            positives: the target item of each query, or several, padded with -1; None: the
                embeddings of the queries are returned.
            query_ids: rows of the loss' known positives.
            negatives: your own, [B, h] padded with -1.
            weight: of each query.
            exclude: more that may not stand for each query, [B, x] padded with -1.
            return_loss: False: ``{"embeddings": ...}`` of the queries instead, [B, D].
        """
        tower = self.loss_fn.item_tower if self.query_tower is None else self.query_tower
        rows = tower(queries)
        if not return_loss or positives is None:
            return {"embeddings": self.loss_fn.score.embed(rows)}
        ids, more = (positives, query_ids, negatives), {"weight": weight, "exclude": exclude}
        return {"loss": self.loss_fn(rows, *ids, **more)}


def _twins(module: nn.Module) -> dict[str, str]:
    """Every further name of a tensor that a module has under several, and its first one."""
    named: list[tuple[str, Tensor]] = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in named}
    return {name: kept for name, kept in names.items() if name != kept}


def _leave_twins_out(module: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    for name in _twins(module):
        state.pop(prefix + name, None)


def _name_twins(module: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    for name, kept in _twins(module).items():
        if prefix + kept in state:
            state.setdefault(prefix + name, state[prefix + kept])
