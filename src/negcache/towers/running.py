"""What is asked of a tower while it encodes, whatever it is made of."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from negcache.errors import InputError
from negcache.shapes import Float, Int, Tensor


@contextmanager
def without_dropout(tower: nn.Module) -> Iterator[None]:
    """Evaluation mode for the length of a block; every submodule gets its own mode back."""
    modes = [(module, module.training) for module in tower.modules()]
    tower.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def finite(rows: Float[Tensor, "M D"], ids: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
    """The rows themselves; an error that names the ids where one holds NaN or inf."""
    if rows.detach().sum().isfinite():
        return rows  # the rule, at the price of one sum
    bad = ids[~rows.detach().isfinite().all(dim=1).to(ids.device)]
    if len(bad):
        raise InputError(
            "finite embeddings",
            f"NaN or inf in {len(bad)} of {len(rows)} rows, ids {bad[:8].tolist()}",
            "lower the learning rate, train in float32, or look at these items",
        )
    return rows
