"""The processes that train together: what "the global batch" means, and what travels, said once.

Everything that torch keeps private about processes is in this file.
"""

from collections import Counter
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_module_registration_hooks,
    register_module_module_registration_hook,
)
from torch.nn.parallel import DistributedDataParallel

_HOST = torch.device("cpu")

_SENT: Counter[str] = Counter()
"""Bytes by the name of the group."""


class Mesh:
    """Processes of a group, in the order of their ranks; alone, everything here is the identity.

    What travels carries gradient where its input does: the backward of ``gather`` adds up, on the
    process that gave a row, what every process found for it.

    Args:
        group: of processes; None: this process alone.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    def __init__(self, group: Any = None) -> None:
        self.group, self._name = group, "" if group is None else group.group_name
        self._hosts: Any = None  # of the processes, for what NCCL cannot do
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)

    @property
    def sent(self) -> int:
        """Bytes that this process has sent through any mesh of the group, by the ring algorithms'
        count; those of gradients when the backward pass sends them.
        """
        return _SENT[self._name]

    @staticmethod
    def now() -> "Mesh":
        """The default process group, if there is one; else this process alone."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return Mesh(dist.group.WORLD)
        return Mesh()

    @staticmethod
    def of(devices: Any) -> "Mesh":
        """A process group, or a one-dimensional ``DeviceMesh`` (one dimension of a larger one)."""
        return Mesh(devices.get_group() if hasattr(devices, "get_group") else devices)

    def absent(self, seconds: float) -> str:
        """Who does not answer within so many seconds, in torch's words; "" where all do.

        Args:
            seconds: to wait.
        """
        try:
            dist.monitored_barrier(self._hosts, timedelta(seconds=seconds), wait_all_ranks=True)
        except RuntimeError as error:
            return str(error)
        return ""

    def watch(self) -> "Mesh":
        """Keep a second way between the processes, to ask who is absent when the first breaks."""
        if self.size > 1:
            self._hosts = dist.new_group(backend="gloo")
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Mesh":
        """Processes are not copied."""
        return self

    def part(self, count: int) -> slice:
        """The share of this process of ``count`` things: as many for each, but for one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def parts(self, count: int) -> list[int]:
        """How many of ``count`` things each process has."""
        ends = [count * rank // self.size for rank in range(self.size + 1)]
        return [end - start for start, end in pairwise(ends)]

    def place(self, rows: int, together: bool) -> tuple[int, int]:
        """Of a batch of ``rows``: the number of its row 0 in the global batch, and rows in all.

        Args:
            together: every process asks; False: as if all had as many rows.
        """
        if self.size == 1 or not together:
            return self.rank * rows, self.size * rows
        (every,) = self.each(rows)
        return sum(every[: self.rank]), sum(every)

    def each(self, *counts: int) -> list[list[int]]:
        """These counts of every process: a list for each of them."""
        mine = torch.tensor([counts], device=self.device)
        return self.gather(mine).T.tolist()

    @property
    def device(self) -> torch.device:
        """Where counts travel: NCCL knows no host memory."""
        with_nccl = self.group is not None and dist.get_backend(self.group) == "nccl"
        return torch.device("cuda", torch.cuda.current_device()) if with_nccl else _HOST

    def gather(self, rows: Tensor, sizes: list[int] | None = None) -> Tensor:
        """The rows of all processes, one after the other; with gradient.

        Args:
            rows: [n, ...] of this process.
            sizes: n of every process; None: they are all the same.
        """
        if self.size == 1:
            return rows
        from torch.distributed import _functional_collectives as collectives  # half a second

        rows = rows.contiguous()
        self._count((self.size - 1) * rows.nbytes)
        if sizes is None or len(set(sizes)) == 1:
            found = collectives.all_gather_single(rows, 0, self.group)
        else:
            copies = rows.repeat(self.size, *[1] * (rows.ndim - 1))
            mine = [len(rows)] * self.size
            found = collectives.all_to_all_single(copies, sizes, mine, self.group)
        found = collectives.wait_tensor(found)
        if found.requires_grad:  # that of the others' rows goes home
            found.register_hook(partial(self._count, found.nbytes - rows.nbytes))
        return found

    def _count(self, more: int, _gradient: Tensor | None = None) -> None:
        _SENT[self._name] += more

    def objects(self, mine: Any) -> list[Any]:
        """What every process has, plain data, in order of rank."""
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine, self.group)
        return found

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, without gradient."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, values: Tensor) -> Tensor:
        """The maximum over all processes, without gradient."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def from_owners(self, values: Tensor, here: Tensor) -> Tensor:
        """Each entry as the one process has it that says ``here``; 0 where none does."""
        return values if self.size == 1 else self.total(values.where(here, values.new_zeros(())))

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        if self.size == 1:
            return values
        found = values.detach().clone()
        dist.all_reduce(found, operation, self.group)
        self._count(2 * (self.size - 1) * found.nbytes // self.size)
        return found


ALONE = Mesh()
"""One process."""


def keep_apart(module: nn.Module) -> None:
    """The parameters of this module are others on every process: no wrapper is to equate them.

    Whatever ``DistributedDataParallel`` wraps a model that holds it, at whatever depth, leaves them
    out when the model comes in: they are neither broadcast nor averaged. ``fully_shard`` leaves
    out a module that another wrapper has.
    """
    from torch.distributed._composable.contract import contract  # half a second

    def replicate(module: nn.Module) -> nn.Module:  # by this name fully_shard knows it
        return module

    contract()(replicate)(module)
    module.is_kept_apart = True  # type: ignore[assignment]
    if _leave_out not in _global_module_registration_hooks.values():
        register_module_module_registration_hook(_leave_out)


def _leave_out(parent: nn.Module, _name: str, module: nn.Module) -> None:
    """Of what a wrapper equates, as it takes its model in."""
    if not isinstance(parent, DistributedDataParallel):
        return
    apart = kept_apart(module)
    ids = {id(one) for one in apart.values()}
    parent.parameters_to_ignore |= set(apart)
    parent._module_parameters = [one for one in parent._module_parameters if id(one) not in ids]
    if apart and not any(one.requires_grad for one in parent._module_parameters):
        raise RuntimeError(  # as torch does where there is nothing to share
            "DistributedDataParallel is not needed around parameters that each process has alone: "
            f"call the {type(module).__name__} itself"
        )
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        module, parent.parameters_to_ignore
    )


def kept_apart(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a module that are others on every process, by name."""
    return {
        f"{prefix}.{name}" if prefix else name: one
        for prefix, part in module.named_modules()
        if getattr(part, "is_kept_apart", False)
        for name, one in part.named_parameters(recurse=False)
    }


def fingerprint() -> int:
    """Of a weight that the wrapper of this pass keeps alike on all processes; 0: there is none."""
    wrapper = DistributedDataParallel._active_ddp_module
    if wrapper is None:
        return 0
    shared = [one for one in wrapper._module_parameters if one.requires_grad]
    smallest = min(shared, key=lambda parameter: parameter.numel())
    return int(smallest.detach().double().sum().view(torch.int64))


def equated(parameter: Tensor) -> bool:
    """Whether, in this forward pass, a wrapper makes a parameter the same on all processes."""
    wrapper = DistributedDataParallel._active_ddp_module
    averaged = [] if wrapper is None else wrapper._module_parameters
    return hasattr(parameter, "placements") or any(parameter is each for each in averaged)


def is_wrapped(module: nn.Module) -> bool:
    """Whether this forward pass of a module is part of one that shares gradients."""
    managed = getattr(
        module, "_is_fsdp_managed_module", False
    )  # so says fully_shard to torch's own
    return managed or DistributedDataParallel._active_ddp_module is not None


def shares_gradients(module: nn.Module) -> bool:
    """Whether, in this forward pass, the gradients of a module reach the other processes too.

    They do inside the forward of a ``DistributedDataParallel``, and where a wrapper of
    ``torch.distributed.fsdp`` manages the parameters, above the module or below it.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel  # half a second

    if DistributedDataParallel._active_ddp_module is not None:
        return True
    wrappers = DistributedDataParallel, FullyShardedDataParallel
    wrapped = [part for part in module.modules() if isinstance(part, wrappers)]
    shared = {id(one) for part in wrapped for one in part.parameters()}
    for part in module.modules():
        if getattr(part, "_is_fsdp_managed_module", False):  # so says fully_shard to torch's own
            shared.update(id(one) for one in part.parameters(recurse=False))
    return all(id(one) in shared for one in module.parameters() if one.requires_grad)


def runs_alone(module: nn.Module) -> bool:
    """Whether a module has its weights where it is called outside of what wraps it.

    Those that ``fully_shard`` of a module above deals out are there in that one's forward alone.
    """
    from torch.distributed.fsdp import FSDPModule  # half a second

    own = {
        id(part)
        for wrapped in module.modules()
        if isinstance(wrapped, FSDPModule)
        for part in wrapped.modules()
    }
    return all(
        id(part) in own or not getattr(part, "_is_fsdp_managed_module", False)
        for part in module.modules()
        if any(True for _ in part.parameters(recurse=False))
    )
