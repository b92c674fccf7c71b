"""The vectors of the classes of a head: a table of its own, or an embedding's."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from negcache.errors import InputError
from negcache.shapes import Float, Tensor

NOT_TIED = frozenset({"bias", "sparse", "device", "dtype", "embedding"})
"""Settings of a head that an embedding decides."""


def new_vectors(
    num_classes: int, dim: int, *, bias: bool, padding_idx: int | None, **settings: Any
) -> nn.Embedding:
    """Vectors as ``nn.Linear`` begins with, the bias as a last column of 0; padding is 0.

    Args:
        settings: ``sparse``, ``device`` and ``dtype`` of ``nn.Embedding``.

    Raises:
        InputError: too few classes, or no dimension.
    """
    if num_classes < 2 or dim < 1:
        raise InputError(
            "2 classes or more, of 1 dimension or more",
            f"{num_classes} classes of {dim}",
            "num_classes is N, dim the last dimension of hidden",
        )
    vectors = nn.Embedding(num_classes, dim + bias, padding_idx, **settings)
    nn.init.uniform_(vectors.weight, -(dim**-0.5), dim**-0.5)
    with torch.no_grad():
        vectors.weight[:, dim:] = 0
        if padding_idx is not None:
            vectors.weight[padding_idx] = 0
    return vectors


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
