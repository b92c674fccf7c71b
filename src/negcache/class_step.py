"""What a head looks up and asks in a step: rows of a table that is here, or dealt out."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from negcache.class_vectors import row_here
from negcache.distributed import Mesh, equated, is_wrapped
from negcache.errors import InputError
from negcache.interfaces import Sampler
from negcache.messages import Request, in_rows
from negcache.score import DotScore
from negcache.shapes import Float, Int, Tensor
from negcache.step import exclusion_of
from negcache.stores import LiveTable
from negcache.stores.live import check_processes, check_shared_table
from negcache.validation import check_finite, check_shared_gradients


@dataclass(frozen=True)
class Classes:
    """The classes of a head, as they are scored.

    Args:
        table: their vectors: those here.
        score: what they become, and how they are scored.
        padding_idx: the class that is none; None: there is no such.
        sparse: whether their gradients are.
    """

    table: LiveTable
    score: DotScore
    padding_idx: int | None
    sparse: bool

    def look_up(self, ids: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        """With gradient; none for the padding.

        Among processes that share the table: the same ids on each, ascending. Every row comes from
        its owner, and the backward pass brings it home what all processes found, divided by their
        number, as DDP divides the gradients of all else.
        """
        shard = self.table.shard
        counts = shard.counts(ids)
        mine = ids.split(counts)[shard.mesh.rank] - shard.first
        padding = row_here(shard, self.padding_idx)
        rows = F.embedding(mine, self.table.weight, padding, sparse=self.sparse)
        rows = self.score.embed(rows)
        if shard.mesh.size > 1 and rows.requires_grad:
            rows.register_hook(partial(torch.mul, 1 / shard.mesh.size))
        return check_finite(shard.mesh.gather(rows, counts), ids)

    def ask(self, queries: Tensor, target: Int[Tensor, "B *p"], place: tuple[int, int]) -> Request:
        """What a sampler is asked; the padding is excluded like a target.

        Args:
            queries: detached.
            place: of row 0 in the batch of all processes, and the rows of that.
        """
        barred = in_rows(target)
        if self.padding_idx is not None:
            barred = F.pad(barred, (0, 1), value=self.padding_idx)
        exclude = exclusion_of(barred, len(self.table))
        return Request(queries, self.score, target, exclude, *place, len(self.table))


def check_wrapping(head: nn.Module, classes: Classes, sampler: Sampler, hidden: Tensor) -> None:
    """Among several processes, gradients go where they belong. Raises InputError.

    Args:
        head: that the table is of.
        classes: of the head.
        sampler: of the head.
        hidden: what they are scored against.
    """
    table, processes = classes.table, Mesh.now().size
    training = head.training and torch.is_grad_enabled()
    if table.shard.mesh.size == 1:
        if training:
            check_shared_table(table, processes)
        if sampler.store is not None:
            check_processes(sampler.store, [table.weight], processes)
        return
    if training and equated(table.weight):
        raise InputError(
            "rows of the table that no wrapper touches: each process has others",
            f"{table.shard.name} in a wrapper that makes them alike",
            "build the head before DDP(model); with FSDP2 say fully_shard(model, "
            "ignored_params=set(head.classes.parameters()))",
        )
    if training and hidden.requires_grad:
        check_shared_gradients(processes, is_wrapped(head), "the model that ends in the head")


def check_dealt_out(table: LiveTable, wanted: bool) -> None:
    """A table to be dealt out was built by the processes that use it. Raises InputError."""
    processes, held = Mesh.now().size, table.shard.mesh.size
    if wanted and processes != held:
        raise InputError(
            f"a table dealt out among the {processes} processes",
            f"one that was built by {held}",
            "build SoftmaxHead(..., shard_classes=True) after init_process_group",
        )
