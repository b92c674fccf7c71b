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


def admit(
    queries: Tensor,
    positives: Tensor,
    query_ids: Tensor | None,
    negatives: Tensor | None,
    num_items: int,
    known: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The ids of a batch as int64, a positive that a row names twice once, the others -1.

    Args:
        known: whether there are known positives, which ``query_ids`` are needed for.

    Raises:
        InputError: shapes that do not fit, ids that are none, or none of the corpus.
    """
    for ids in (positives, query_ids, negatives):
        if ids is not None and not isinstance(ids, Tensor):
            raise InputError("ids as tensors", type(ids).__name__, "torch.as_tensor(ids)")
    _check_shapes(queries, positives, query_ids, negatives)
    if known and query_ids is None:
        raise InputError(
            "query_ids with known_positives", "query_ids=None", "pass the batch's query rows"
        )
    positives = _whole("positives", positives)
    query_ids = None if query_ids is None else _whole("query_ids", query_ids)
    negatives = None if negatives is None else _whole("negatives", negatives)
    _check_positives(positives, num_items)
    named = [("positives", positives, 1 - positives.ndim), ("negatives", negatives, -1)]
    for name, ids, least in named:
        if ids is not None and not bool(((ids >= least) & (ids < num_items)).all()):
            raise InputError(
                f"{name} between {least} and {num_items - 1}",
                f"ids from {int(ids.min())} to {int(ids.max())}",
                "ids are row numbers of the corpus",
            )
    return _each_once(positives) if positives.ndim == 2 else positives, query_ids, negatives


def admit_excluded(queries: Tensor, exclude: Tensor | None) -> Tensor | None:
    """What may not stand for each query, as int64. Raises InputError: it is no [B, x]."""
    if exclude is None:
        return None
    if exclude.ndim != 2 or len(exclude) != len(queries):
        raise InputError(
            f"exclude of shape ({len(queries)}, x), padded with -1",
            f"{tuple(exclude.shape)}",
            "pass one row for each query of the batch",
        )
    return _whole("exclude", exclude)


def _whole(name: str, ids: Tensor) -> Tensor:
    """Ids of any signed width as int64: narrower sums and products would overflow."""
    if ids.dtype in (torch.bool, torch.uint8) or ids.is_floating_point():
        raise InputError(f"{name} as ids", f"{ids.dtype}", "pass ids, not flags")
    return ids.long()


def _check_positives(positives: Tensor, num_items: int) -> None:
    if positives.ndim == 2 and positives.shape[1] >= num_items:
        raise InputError(
            f"fewer positives in a row than the {num_items} items",
            f"{positives.shape[1]} columns",
            "pass the ids of each query's positives padded with -1, not a multi-hot row",
        )
    if positives.ndim == 2 and not bool((positives >= 0).any(dim=1).all()):
        raise InputError("a positive for every query", "a row of -1", "leave the query out")


def _each_once(ids: Tensor) -> Tensor:
    """[B, p] with -1 in place of what stands further left in its row."""
    ordered, order = ids.sort(dim=1, stable=True)
    ordered[:, 1:].masked_fill_(ordered[:, 1:] == ordered[:, :-1], -1)
    return torch.empty_like(ids).scatter_(1, order, ordered)


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


def _check_shapes(
    queries: Tensor, positives: Tensor, query_ids: Tensor | None, negatives: Tensor | None
) -> None:
    wrong = [
        f"{name} of shape {tuple(given.shape)}"
        for name, given, dims in (
            ("queries", queries, (2,)),
            ("positives", positives, (1, 2)),
            ("query_ids", query_ids, (1,)),
            ("negatives", negatives, (2,)),
        )
        if given is not None and (given.ndim not in dims or len(given) != len(queries))
    ]
    if wrong or not len(queries):
        raise InputError(
            "queries [B, D], positives [B] or [B, p], query_ids [B], negatives [B, h], B >= 1",
            ", ".join(wrong) or "an empty batch",
            "pass one row for each query of the batch",
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
