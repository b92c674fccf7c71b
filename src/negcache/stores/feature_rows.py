"""Features of items as tensors by name, a row for each item, and back."""

import torch
from torch.nn import functional as F

from negcache.distributed import Mesh
from negcache.errors import InputError
from negcache.shapes import Tensor
from negcache.towers.static import Bags

Features = Tensor | dict[str, Tensor] | Bags
"""What an item tower takes of some items: a tensor [M, ...], several by name, or texts as bags."""

Rows = dict[str, Tensor]
"""Tensors [M, ...] by name, on the host. Bags are padded tokens [M, w] and lengths [M]."""

FORMS = {"tensor": Tensor, "tensors by name": dict, "bags": Bags}


def form_of(features: Features) -> str:
    """Which of ``FORMS``. Raises InputError where it is none."""
    for form, kind in FORMS.items():
        if isinstance(features, kind):
            return form
    raise InputError(
        "features as a tensor, a dict of tensors or Bags",
        type(features).__name__,
        "what the item tower takes of some items, one row for each",
    )


def to_rows(features: Features) -> Rows:
    if isinstance(features, Bags):
        return _padded(features)
    named = features if isinstance(features, dict) else {"": features}
    return {name: each.detach().cpu() for name, each in named.items()}


def from_rows(rows: Rows, form: str) -> Features:
    """As the item tower takes them."""
    if form == "bags":
        lengths = rows["lengths"]
        inside = torch.arange(rows["tokens"].shape[1]) < lengths[:, None]
        return Bags(rows["tokens"][inside].long(), lengths.cumsum(0) - lengths)
    return rows if form == "tensors by name" else rows[""]


def widened(rows: Rows, form: str, width: int) -> Rows:
    """Bags padded to so many tokens at least; other forms as they are."""
    if form != "bags" or not rows:
        return rows
    missing = max(0, width - rows["tokens"].shape[1])
    return rows | {"tokens": F.pad(rows["tokens"], (0, missing))}


def width_of(rows: Rows, form: str) -> int:
    """Tokens that bags are padded to; 0: they are none."""
    return rows["tokens"].shape[1] if form == "bags" and rows else 0


def some(rows: Rows, which: Tensor) -> Rows:
    """Those of some of the items, by their numbers or a mask."""
    return {name: each[which.cpu()] for name, each in rows.items()}


def gathered(rows: Rows, form: str, mesh: Mesh, count: int) -> Rows:
    """Those of all processes, one after the other.

    Args:
        count: rows of this process.
    """
    if mesh.size == 1:
        return rows
    counts, widths = mesh.each(count, width_of(rows, form))
    rows = widened(rows, form, max(widths))
    return {name: mesh.gather(each.to(mesh.device), counts).cpu() for name, each in rows.items()}


def _padded(bags: Bags) -> Rows:
    starts = bags.starts.cpu()
    lengths = F.pad(starts, (0, 1), value=len(bags.tokens)).diff()
    inside = torch.arange(int(lengths.max()) if len(lengths) else 0) < lengths[:, None]
    tokens = torch.zeros(inside.shape, dtype=torch.int32)
    tokens[inside] = bags.tokens.cpu().int()
    return {"tokens": tokens, "lengths": lengths}
