"""Where this process stands among the others: what "the global batch" means, said once."""

from dataclasses import dataclass

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


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


def shares_gradients(module: nn.Module) -> bool:
    """Whether, in this forward pass, the gradients of a module reach the other processes too.

    They do inside the forward of a ``DistributedDataParallel``, and below wrappers of its own.
    """
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel  # half a second

    if DistributedDataParallel._active_ddp_module is not None:
        return True
    sharing = DistributedDataParallel, FullyShardedDataParallel, FSDPModule
    wrapped = [part for part in module.modules() if isinstance(part, sharing)]
    shared = {id(one) for part in wrapped for one in part.parameters()}
    return all(id(one) in shared for one in module.parameters() if one.requires_grad)
