"""One epoch in random order."""

from collections.abc import Sequence

import torch

from negcache.errors import InputError
from negcache.shapes import Int, Tensor


def shuffled_batches(
    size: int, batch_size: int, generator: torch.Generator, what: str
) -> Sequence[Int[Tensor, "B"]]:
    """The numbers 0 to ``size - 1`` in random order by batches; a short last one is dropped.

    Args:
        size: how many there are.
        batch_size: from 1 to ``size``; anything else is an InputError.
        generator: one permutation is drawn from it.
        what: is numbered; named in the error.
    """
    if not 1 <= batch_size <= size:
        raise InputError(
            f"a batch size from 1 to the {size} {what}", str(batch_size), "choose a smaller batch"
        )
    order = torch.randperm(size, generator=generator)
    return order[: size // batch_size * batch_size].split(batch_size)
