"""What is refused, or made plain, before anything is encoded."""

import os
from collections.abc import Sized
from typing import Any

import torch
from torch import nn

from negcache.errors import InputError
from negcache.shapes import Tensor

REDUCTIONS = ("mean", "sum", "none")
"""How losses become one, as in torch."""


def check_known(ids: Tensor, num_items: int) -> None:
    """Known positives are items of the corpus. Raises InputError with those that are not."""
    strange = ids[(ids < 0) | (ids >= num_items)].unique()
    if len(strange):
        raise InputError(
            f"known positives between 0 and {num_items - 1}",
            f"{len(strange)} other ids, {strange[:3].tolist()} first",
            "build known_positives from row numbers of this very corpus",
        )


def check_popularity(log_popularity: Tensor) -> None:
    """Logs of shares: refuses shares, counts and zeros; a rough estimate may be a quarter off."""
    total = float(log_popularity.double().exp().sum())
    if not 0.75 <= total <= 1.25:
        raise InputError(
            "log_popularity whose exp sums to about 1",
            f"a sum of {total:.4g} over {len(log_popularity)} items",
            "pass (counts / counts.sum()).log(): logs of shares, not shares or counts",
        )


def check_items(num_items: int, stored: int | None) -> None:
    """A corpus with something to choose from, and a store of the same items. Raises InputError."""
    if num_items < 2:
        raise InputError(
            "a corpus of at least 2 items", f"{num_items}", "a softmax needs a negative"
        )
    if stored not in (None, num_items):
        raise InputError(
            f"a store of the corpus' {num_items} items",
            f"one of {stored}",
            "build the store with len(corpus)",
        )


def check_shared_gradients(num_processes: int, shared: bool, whole: str) -> None:
    """Among several processes, what trains shares its gradients. Raises InputError.

    Args:
        whole: what stands inside ``DistributedDataParallel``, with all that trains.
    """
    if num_processes > 1 and not shared:
        raise InputError(
            "gradients that reach all processes",
            f"trainable parameters outside DistributedDataParallel, {num_processes} processes",
            f"call DDP({whole}): with a part of it in DDP the others drift apart",
        )


def check_weighting(
    weight: Tensor | None, reduction: str, queries: int, together: bool = False
) -> None:
    """How losses become one, perhaps with those of other processes. Raises InputError."""
    if reduction not in REDUCTIONS:
        raise InputError('reduction "mean", "sum" or "none"', f"{reduction!r}", "as in torch")
    if weight is None:
        return
    if weight.shape != (queries,) or not weight.isfinite().all():
        raise InputError(
            f"a finite weight for each of the {queries} queries",
            f"shape {tuple(weight.shape)}",
            "pass weight=[B], or leave it out",
        )
    if reduction == "mean" and queries and not together and not float(weight.sum()):
        raise InputError(
            "weights with a sum to divide by", "a sum of 0", 'leave the batch out, or take "sum"'
        )


def check_dimensions(queries: Tensor, items: Tensor, where: str) -> None:
    """Queries and items of one space. Raises InputError."""
    if queries.shape[1] != items.shape[1]:
        raise InputError(
            f"{where} of the queries' {queries.shape[1]} dimensions",
            f"{items.shape[1]}",
            "give both towers and the store the same output dimensions",
        )
    if queries.dtype == torch.float64 != items.dtype:
        raise InputError(
            f"queries of {items.dtype}, as the {where} are",
            f"{queries.dtype}",
            "bring both towers, and the store, to the same precision",
        )


def check_own_state(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Refuse weights without what a loss remembers: trainers load leniently. A pre-hook."""
    if f"{prefix}_extra_state" not in state:
        raise InputError(
            f"the loss' own state: store, clock and noise of the {type(module).__name__}",
            "a state dict without it",
            "resume from a checkpoint that holds it; for weights alone load them into the towers "
            "or the embedding themselves: item_tower.load_state_dict(...)",
        )


def check_no_replica(module: nn.Module) -> None:
    """Threads would share one store and one generator. Raises InputError."""
    if getattr(module, "_is_replica", False):
        raise InputError(
            "a process for each device",
            "a replica that nn.DataParallel made",
            "start with torchrun, or show one device alone: CUDA_VISIBLE_DEVICES=0",
        )


def check_mini_batches(mini_batch_size: int | None, tower: nn.Module) -> None:
    """Items that are encoded in parts do not depend on each other. Raises InputError."""
    if mini_batch_size is None:
        return
    if mini_batch_size < 1:
        raise InputError(
            "mini_batch_size of 1 or more, or None", f"{mini_batch_size}", "32 suits a CPU"
        )
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in tower.modules()):
        raise InputError(
            "an item tower without batch normalisation for mini_batch_size",
            type(tower).__name__,
            "leave mini_batch_size out, or normalise each item by itself (LayerNorm)",
        )


def check_finite(rows: Tensor, ids: Tensor | None = None, what: str = "embeddings") -> Tensor:
    """The rows themselves; an error that names those that hold NaN or inf.

    Args:
        ids: of the rows; None: their numbers.
        what: they are.
    """
    if rows.detach().sum().isfinite():
        return rows  # the rule, at the price of one sum
    bad = (~rows.detach().isfinite().all(dim=1)).nonzero().squeeze(1)
    if len(bad):
        named = bad if ids is None else ids[bad.to(ids.device)]
        raise InputError(
            f"finite {what}",
            f"NaN or inf in {len(bad)} of {len(rows)} rows, ids {named[:8].tolist()}",
            "lower the learning rate, train in float32, or look at these items",
        )
    return rows


def count_items(items: object) -> int:
    """How many there are of what is drawn from. Raises InputError where that is not clear."""
    if not isinstance(items, Sized):
        raise InputError(
            "items with a length: a corpus, a store of all items",
            type(items).__name__,
            "pass the corpus, or range(N): a store of some items does not say which are meant",
        )
    return len(items)


def check_ids(ids: Tensor, num_items: int) -> None:
    """Rows of a corpus. Raises InputError."""
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < num_items:
        raise InputError(
            f"ids between 0 and {num_items - 1}",
            f"ids from {int(ids.min())} to {int(ids.max())}",
            "ids are row numbers of the corpus",
        )


def check_room(wanted: int, device: torch.device, what: str, remedy: str) -> None:
    """Refuse what is larger than the device's free memory, or the host's whole memory."""
    if device.type == "cuda":
        there = torch.cuda.mem_get_info(device)[0]
    elif "SC_PHYS_PAGES" in os.sysconf_names:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        return
    if wanted > there:
        raise InputError(
            f"{what} within the {there / 2**30:.1f} GiB of {device.type} memory",
            f"{wanted / 2**30:.1f} GiB",
            remedy,
        )


def check_saved_store(state: dict[str, Any]) -> None:
    """Refuse a loss's state that was saved without a store, where the sampler has one."""
    if "store" not in state:
        raise InputError(
            "a state saved with this sampler's store",
            "a state without one",
            "build the sampler as it was when saved, or load the weights alone",
        )
