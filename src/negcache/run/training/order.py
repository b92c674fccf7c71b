"""The order of the training pairs: a function of the seed and the position, nothing to replay."""

from dataclasses import dataclass, field

import torch

from negcache.errors import InputError
from negcache.shapes import Int, Tensor


@dataclass
class Order:
    """Shuffled batches of pair numbers, reshuffled every epoch; the short last batch is dropped.

    Args:
        num_pairs: training pairs.
        batch_size: pairs per batch.
        seed: of the shuffles.
    """

    num_pairs: int
    batch_size: int
    seed: int
    _epoch: int = field(default=-1, repr=False)
    _shuffled: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)

    def __post_init__(self) -> None:
        if self.batch_size > self.num_pairs:
            raise InputError(
                f"a batch of at most the {self.num_pairs} training pairs",
                f"batch_size = {self.batch_size}",
                "set a smaller batch_size",
            )

    def place(self, position: int) -> tuple[int, int]:
        """(epoch, batch within the epoch) of the batch number ``position``, counted from 0."""
        return divmod(position, self.num_pairs // self.batch_size)

    def batch(self, position: int) -> Int[Tensor, "B"]:
        """Pair numbers of the batch number ``position``, counted from 0 over all epochs."""
        epoch, index = self.place(position)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._shuffled = torch.randperm(self.num_pairs, generator=generator)
            self._epoch = epoch
        return self._shuffled[index * self.batch_size : (index + 1) * self.batch_size]
