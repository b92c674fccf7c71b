"""What is refused of stores, tables and heads among several processes, before anything is drawn."""

from collections.abc import Iterable

import torch
from torch import nn

from negcache.distributed import Mesh, equated, is_wrapped, runs_alone, shares_gradients
from negcache.errors import InputError
from negcache.interfaces import Store
from negcache.shapes import Tensor
from negcache.stores.live import LiveTable
from negcache.validation import check_shared_gradients


def check_processes(store: Store, shared: Iterable[Tensor], num_processes: int) -> None:
    """Refuse a store that would differ among the processes of a training.

    The rows of a live table are equal everywhere as long as their gradients are shared, and a draw
    that reads them alone is that of one process. Sums and indexes are told of the rows that this
    process looked up, and the optimizer moves those of the others too: ``renew_every`` bounds how
    long they lag behind, at the price of efficiency alone.

    Args:
        store: of the sampler.
        shared: parameters whose gradients the processes share.
        num_processes: that train together.

    Raises:
        InputError: it is no live table, its observers never start anew, or its rows train and
            share no gradients.
    """
    if num_processes == 1 or store.shard.mesh.size == num_processes:
        return
    if not isinstance(store, LiveTable):
        raise InputError(
            f"a store shared by the {num_processes} processes",
            f"a {type(store).__name__} that this process has alone",
            "build it after init_process_group: each process then holds its share of the rows",
        )
    if store.observers and not store.renew_every:
        raise InputError(
            "one process for sums or an index over a live table that never start anew",
            f"{', '.join(store.observers.names)}, {num_processes} processes",
            "say LiveTable(..., renew_every=100), or sparse=False of a SoftmaxHead; or draw from "
            "the rows themselves (CachedSoftmax)",
        )
    if store.weight.requires_grad and not any(store.weight is each for each in shared):
        raise InputError(
            "a live table of the loss' own parameters among several processes",
            "one of others, that train",
            "build it of the item tower, LiveTable(item_tower)",
        )


def most_of_all(store: Store, count: int, ahead: int = 0) -> int:
    """The largest count of the processes that share a store, all of them at the same step.

    They meet here at every pass, and at every step before anything has changed: so one that goes on
    without a step meets the others while they make it.

    Args:
        ahead: steps that this process makes now.

    Raises:
        InputError: some have made fewer steps than others.
    """
    if store.shard.mesh.size == 1:
        return count
    counts, made = store.shard.mesh.each(count, store.clock + ahead)
    behind = [rank for rank, steps in enumerate(made) if steps < max(made)]
    if behind:
        raise InputError(
            f"{max(made)} steps of the loss on every process",
            ", ".join(f"{made[rank]} on process {rank}" for rank in behind),
            "call loss_fn.step() on every process",
        )
    return max(counts)


def check_pool(store: Store | None, gather_across_devices: bool) -> None:
    """Rows of all processes are drawn for the queries of all. Raises InputError."""
    if store is not None and store.is_live and store.shard.mesh.size > 1:
        raise InputError(
            "a live table that is whole on every process: towers encode any item",
            f"{store.shard.name} of {store.shard.total}",
            "leave shard= out, or take SoftmaxHead(..., shard_classes=True), which looks rows up "
            "where they are",
        )
    if store is not None and store.shard.mesh.size > 1 and not gather_across_devices:
        raise InputError(
            "gather_across_devices=True with a store shared by processes",
            "False",
            "leave it out: each query is scored against the rows of every process anyway",
        )


def check_refresh(store: Store | None, tower: nn.Module) -> None:
    """A store is refreshed between two passes of the whole model. Raises InputError."""
    if store is not None and not store.is_live and not runs_alone(tower):
        raise InputError(
            "an item tower that can be called by itself, for the refresh of its store",
            "weights that fully_shard of a module above it deals out",
            "fully_shard(item_tower) first, then the whole model",
        )


def check_shared_table(table: LiveTable, num_processes: int) -> None:
    """Among several processes, classes that train share their gradients. Raises InputError."""
    source = table.source
    if num_processes > 1 and isinstance(source, nn.Module):
        whole = "the model that ends in the head"
        check_shared_gradients(num_processes, shares_gradients(source), whole)


def check_head(head: nn.Module, table: LiveTable, store: Store | None, hidden: Tensor) -> None:
    """Among several processes, gradients of a head go where they belong. Raises InputError.

    Args:
        head: whose pass this is.
        table: of its classes.
        store: of its sampler.
        hidden: what they are scored against.
    """
    processes = Mesh.now().size
    training = head.training and torch.is_grad_enabled()
    if store is not None:
        check_processes(store, [table.weight], processes)
    if table.shard.mesh.size == 1:
        if training:
            check_shared_table(table, processes)
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
