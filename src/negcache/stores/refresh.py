"""What to look at again, and when: pure rules over the ages of rows."""

import math
from typing import final

import torch

from negcache.errors import InputError
from negcache.shapes import Int, Tensor


@final
class Oldest:
    """The oldest ``rho`` of the rows after each step, so that none is older than ceil(1 / rho).

    In a ``DenseCache`` a row's age counts from its last write; in a ``SubsetCache`` from its entry:
    first in, first out. 0: never. Source: Lindgren et al., NeurIPS 2021.

    Args:
        rho: rows a step, as a fraction of all.
    """

    takes_training_rows = True

    def __init__(self, rho: float) -> None:
        if not 0 <= rho <= 1:
            raise InputError("rho between 0 and 1", f"{rho}", "rows per step / rows is a fraction")
        self.rho = rho

    def plan(self, written: Int[Tensor, "S"], step: int) -> Int[Tensor, "R"]:
        """The smaller slot first in a tie."""
        count = rows_due(self.rho, len(written), step)
        seniority = written * len(written) + torch.arange(len(written), device=written.device)
        return seniority.topk(count, largest=False).indices


@final
class Snapshot:
    """All rows together every ``every`` steps; in between they stay as they were.

    So all rows come from the same weights: rows that a training step encodes are passed over. This
    is how mined negatives are kept by ANCE (a whole corpus in a ``DenseCache``, Xiong et al., ICLR
    2021) and by stochastic negative mining (a pool of items drawn anew each time, a
    ``SubsetCache``). The snapshot is taken between two steps, not beside them.

    Args:
        every: optimizer steps from one snapshot to the next; N encodings each time, or the pool's.
    """

    takes_training_rows = False

    def __init__(self, every: int) -> None:
        if every < 1:
            raise InputError("every of 1 or more steps", f"{every}", "1 encodes all rows each step")
        self.every = every

    def plan(self, written: Int[Tensor, "S"], step: int) -> Int[Tensor, "R"]:
        if (step + 1) % self.every:
            return torch.empty(0, dtype=torch.long, device=written.device)
        return Oldest(1.0).plan(written, 0)


def rows_due(rho: float, num_rows: int, step: int) -> int:
    """Rows to refresh in step ``step`` (from 0) so that ``rho * num_rows`` a step holds on average.

    After t steps exactly ``ceil(rho * num_rows * t)`` rows have been due, also when that is less
    than one a step: plain ``int(rho * num_rows)`` would then never refresh anything.

    Example:
        >>> [rows_due(0.01, 37, step) for step in range(6)]
        [1, 0, 1, 0, 0, 1]
        >>> sum(rows_due(0.01, 37, step) for step in range(100))
        37
    """

    def due_by(steps: int) -> int:
        return math.ceil(round(rho * num_rows * steps, 6))

    return due_by(step + 1) - due_by(step)
