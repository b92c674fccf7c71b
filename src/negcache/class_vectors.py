"""The vectors of the classes of a head: its own, perhaps dealt out, or an embedding's."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from negcache.distributed import Mesh
from negcache.errors import InputError
from negcache.ops.shards import PART, Shard, part_rows
from negcache.shapes import Float, Tensor

NOT_TIED = frozenset({"bias", "sparse", "device", "dtype", "embedding"})
"""Settings of a head that an embedding decides."""


def shard_of(num_classes: int, *, dealt_out: bool, tied: bool) -> Shard:
    """Which classes are here. Raises InputError: too few classes, or an embedding dealt out."""
    if num_classes < 2:
        raise InputError("2 classes or more", f"{num_classes}", "num_classes is N")
    if dealt_out and tied:
        raise InputError(
            "a table of the head's own with shard_classes=True",
            "an embedding, whose rows the model looks up on every process",
            "leave shard_classes out of SoftmaxHead.tied, or build SoftmaxHead(...) with a table",
        )
    return Shard.of(Mesh.now(), num_classes) if dealt_out else Shard.whole(num_classes)


def new_vectors(
    shard: Shard, dim: int, *, bias: bool, padding_idx: int | None, **settings: Any
) -> nn.Embedding:
    """Vectors as ``nn.Linear`` begins with, the bias as a last column of 0; padding is 0.

    The rows here are those that one process with the same torch seed has there: all are drawn, part
    by part.

    Args:
        shard: which of the classes are here.
        settings: ``sparse``, ``device`` and ``dtype`` of ``nn.Embedding``.

    Raises:
        InputError: no dimension.
    """
    if dim < 1:
        raise InputError(
            "classes of 1 dimension or more", f"{dim}", "dim is the last dimension of hidden"
        )
    memory = {name: settings.pop(name, None) for name in ("device", "dtype")}
    weight = torch.empty(shard.size, dim + bias, **memory)
    _begin(weight, shard, dim)
    padding = row_here(shard, padding_idx)
    if padding is not None:
        weight[padding] = 0
    vectors = nn.Embedding.from_pretrained(weight, False, padding, **settings)
    if shard.size < shard.total:
        vectors.register_state_dict_post_hook(partial(_save_parts, shard))
    vectors.register_load_state_dict_pre_hook(partial(_load_parts, shard))
    return vectors


@torch.no_grad()
def _begin(weight: Float[Tensor, "S _"], shard: Shard, dim: int) -> None:
    """Draw every part of the table, and keep those that are here."""
    step = part_rows(shard.total)
    aside = weight.new_empty(step, weight.shape[1])
    for start in range(0, shard.total, step):
        rows, here = min(step, shard.total - start), start - shard.first
        drawn = weight[here : here + rows] if 0 <= here < shard.size else aside[:rows]
        drawn.uniform_(-(dim**-0.5), dim**-0.5)
    weight[:, dim:] = 0


def row_here(shard: Shard, row: int | None) -> int | None:
    """The number here of a row of the table; None: it is not here, or there is none."""
    here = -1 if row is None else row - shard.first
    return here if 0 <= here < shard.size else None


def _save_parts(shard: Shard, _vectors: nn.Module, state: Any, prefix: str, *_: Any) -> None:
    """Rows by part: states of several processes add up. A hook after ``state_dict``."""
    rows = state.pop(f"{prefix}weight")
    for name, part in shard.parts.items():
        state[f"{prefix}weight.{name}"] = rows[part]


def _load_parts(shard: Shard, _vectors: nn.Module, state: Any, prefix: str, *_: Any) -> None:
    """The rows that are here, of a whole table or of parts. A hook before ``load_state_dict``.

    Raises:
        InputError: parts that are here are not there, or the table has other parts.
    """
    key = f"{prefix}weight"
    if key in state:
        if len(state[key]) == shard.total:
            state[key] = state[key][shard.bounds]
        return
    names = [each.removeprefix(f"{key}.") for each in state if each.startswith(f"{key}.")]
    saved = {name: state.pop(f"{key}.{name}") for name in names if PART.fullmatch(name)}
    missing = [name for name in shard.parts if name not in saved]
    last = max((int(name.split()[-1]) for name in saved), default=0)
    if saved and (missing or last > shard.total):
        raise InputError(
            f"{shard.name} of {shard.total}, which this process holds",
            f"a state without {missing[0]}" if missing else f"rows up to {last}",
            "load what this very process saved, or what all of them saved together, into as many "
            "classes: the states of all, one dictionary",
        )
    if saved:
        state[key] = torch.cat([saved[name] for name in shard.parts])


def vectors_of(embedding: nn.Module, settings: Iterable[str]) -> Float[Tensor, "N D"]:
    """The weight of an embedding. Raises InputError where it has none, or decides a setting."""
    weight = getattr(embedding, "weight", None)
    own = sorted(NOT_TIED & set(settings))
    if own or not isinstance(weight, Tensor) or weight.ndim != 2:
        raise InputError(
            "a module with a weight [N, D], which decides device, dtype and sparse; no bias",
            ", ".join(own) or type(embedding).__name__,
            "tie to nn.Embedding(N, D), or build a head with a table of its own",
        )
    return weight


def check_bias(bias: bool, *, normalize: bool, tied: bool) -> None:
    """Raises InputError where classes have none."""
    if bias and (normalize or tied):
        raise InputError(
            f"bias=False with {'normalize=True' if normalize else 'an embedding'}",
            "bias=True",
            "unit-norm classes, and those of an embedding, have no bias",
        )


def padding_row(index: int | None, num_classes: int) -> int | None:
    """From 0; negative ones count from the end, as in ``nn.Embedding``. Raises InputError."""
    if index is None or 0 <= index < num_classes:
        return index
    if not -num_classes <= index < 0:
        raise InputError(
            f"padding_idx between {-num_classes} and {num_classes - 1}, or None",
            f"{index}",
            "it is the number of a class",
        )
    return index + num_classes


def check_table(embedding: nn.Module, num_classes: int, dim: int) -> nn.Module:
    """The embedding itself. Raises InputError where its weight is not [N, D]."""
    shape = tuple(vectors_of(embedding, ()).shape)
    if shape != (num_classes, dim):
        raise InputError(
            f"an embedding of shape {(num_classes, dim)}",
            f"{shape}",
            "SoftmaxHead.tied(embedding) takes the shape from it",
        )
    return embedding
