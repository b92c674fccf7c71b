"""Where this process stands among the others: what "the global batch" means, said once."""

from dataclasses import dataclass

import torch.distributed as dist


@dataclass(frozen=True)
class Mesh:
    """The processes that train together; alone, everything here is the identity.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @staticmethod
    def now() -> "Mesh":
        """The default process group, if there is one."""
        if dist.is_available() and dist.is_initialized():
            return Mesh(dist.get_rank(), dist.get_world_size())
        return Mesh()

    def place(self, rows: int) -> tuple[int, int]:
        """Of a batch of ``rows`` on every process: the global number of row 0, and rows in all."""
        return self.rank * rows, self.size * rows
