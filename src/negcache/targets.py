"""What a batch of hidden states and targets comes to: rows that count, flat, and back again."""

from typing import NamedTuple

import torch

from negcache.errors import InputError
from negcache.shapes import Bool, Float, Int, Tensor


class Counted(NamedTuple):
    """The rows of a batch that have a target which counts.

    Args:
        hidden: of these rows.
        target: their targets; several in a row padded with -1.
        weight: their weights; None: all weigh the same.
        kept: which of the flat batch's rows they are.
        leading: the shape of the batch before it was made flat.
    """

    hidden: Float[Tensor, "R D"]
    target: Int[Tensor, "R *p"]
    weight: Float[Tensor, "R"] | None
    kept: Bool[Tensor, "B"]
    leading: torch.Size

    def spread(self, losses: Float[Tensor, "R"]) -> Float[Tensor, "..."]:
        """Losses in the batch's own shape, 0 for the rows that do not count."""
        everywhere = losses.new_zeros(len(self.kept)).masked_scatter(self.kept, losses)
        return everywhere.view(self.leading)


def counted(
    hidden: Float[Tensor, "... D"],
    target: Int[Tensor, "..."] | None,
    targets: Int[Tensor, "... p"] | None,
    weight: Float[Tensor, "..."] | None,
    ignored: tuple[int | None, ...],
) -> Counted:
    """A batch of any leading dimensions as flat rows, without those that have nothing to predict.

    Args:
        hidden: what the classes are scored against.
        target: the class of each row; exclusive with ``targets``.
        targets: several classes of each row, padded with -1.
        weight: of each row.
        ignored: targets that count for nothing; None among them is no target.

    Raises:
        InputError: both targets or none, or shapes that do not fit.
    """
    leading = hidden.shape[:-1]
    wanted = _the_one(target, targets)
    _check_leading(leading, wanted, weight, several=target is None)
    flat = wanted.reshape(-1, *wanted.shape[len(leading) :])
    flat, kept = _real(flat, [each for each in ignored if each is not None])
    weight = None if weight is None else weight.reshape(-1)
    rows = hidden.reshape(-1, hidden.shape[-1])
    if not kept.all():
        rows, flat = rows[kept], flat[kept]
        weight = None if weight is None else weight[kept]
    return Counted(rows, flat, weight, kept, leading)


def check_hidden(hidden: Tensor, dim: int) -> Tensor:
    """The hidden states themselves. Raises InputError where their last dimension is not D."""
    if not isinstance(hidden, Tensor) or not hidden.is_floating_point():
        got = hidden.dtype if isinstance(hidden, Tensor) else type(hidden).__name__
        raise InputError(
            "hidden as a tensor of floating point numbers", f"{got}", "pass your hidden states"
        )
    if not hidden.ndim or hidden.shape[-1] != dim:
        raise InputError(
            f"hidden of shape [..., {dim}]",
            f"{tuple(hidden.shape)}",
            "build the head with the D of your hidden states",
        )
    return hidden


def _the_one(target: Tensor | None, targets: Tensor | None) -> Tensor:
    for given in (target, targets):
        if given is not None and not isinstance(given, Tensor):
            raise InputError("targets as tensors", type(given).__name__, "torch.as_tensor(target)")
    if target is not None and targets is None:
        return target
    if targets is not None and target is None:
        return targets
    raise InputError(
        "exactly one of target and targets",
        "neither" if target is None else "both",
        "target is the class of each row; targets= [..., p], padded with -1, are several",
    )


def _check_leading(
    leading: torch.Size, wanted: Tensor, weight: Tensor | None, *, several: bool
) -> None:
    """Targets, and weights, for exactly the rows of ``hidden``. Raises InputError."""
    there = wanted.shape[:-1] if several else wanted.shape
    name, shape = ("targets", f"{(*leading, 'p')}") if several else ("target", f"{tuple(leading)}")
    if there != leading or (several and wanted.ndim != len(leading) + 1):
        raise InputError(
            f"{name} of shape {shape}, one row for each hidden state",
            f"{tuple(wanted.shape)}",
            "several positives of a row go by targets= [..., p], padded with -1",
        )
    if weight is not None and weight.shape != leading:
        raise InputError(
            f"weight of shape {tuple(leading)}, one for each row",
            f"{tuple(weight.shape)}",
            "weights are of rows; there are none of classes",
        )


def _real(target: Tensor, ignored: list[int]) -> tuple[Tensor, Tensor]:
    """Targets without those that count for nothing, and which rows have any left."""
    nothing = torch.zeros_like(target, dtype=torch.bool)
    for each in ignored:
        nothing |= target == each
    if target.ndim == 1:
        return target, ~nothing
    target = target.masked_fill(nothing, -1)
    return target, (target >= 0).any(dim=1) | ~nothing.any(dim=1)  # a row of -1 is refused later
