"""The norm of a model's gradients, some of which are of this process alone."""

import torch
from torch import nn

from negcache.distributed import Mesh, kept_apart
from negcache.shapes import Tensor


@torch.no_grad()
def clip_grad_norm_(model: nn.Module, max_norm: float) -> Tensor:
    """``torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)`` as one process has it.

    Where a ``SoftmaxHead(shard_classes=True)`` is in the model torch's own finds another norm on
    each process, that of its rows, and scales by it: the weights that all share would part. All
    processes call this together; sparse gradients are taken too.

    Args:
        model: whose gradients are scaled, wrapped or not.
        max_norm: that they have at most, the 2-norm over all parameters of all processes.

    Returns:
        The norm before, the same on every process.
    """
    apart = {id(one) for one in kept_apart(model).values()}
    gradients: list[Tensor] = []
    squares = torch.zeros(2, dtype=torch.float64)  # of what all share, of what is here alone
    for one in model.parameters():
        if one.grad is None:
            continue
        if one.grad.is_sparse:
            one.grad = one.grad.coalesce()
        gradients.append(one.grad)
        values = one.grad.values() if one.grad.is_sparse else one.grad
        squares[int(id(one) in apart)] += _whole(torch.linalg.vector_norm(values)).square()
    mesh = Mesh.now()
    if apart:
        squares[1] = mesh.total(squares[1].to(mesh.device)).cpu()
    norm = squares.sum().sqrt()
    scale = float((max_norm / (norm + 1e-6)).clamp(max=1.0))
    for gradient in gradients:
        gradient.mul_(scale)
    return norm


def _whole(norm: Tensor) -> Tensor:
    """Of all shards of a parameter that ``fully_shard`` has dealt out, on the host."""
    full = getattr(norm, "full_tensor", None)
    return (norm if full is None else full()).double().cpu()
