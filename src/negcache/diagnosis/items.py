"""Items as the tower is now, and which of them stand for all."""

from dataclasses import dataclass

import torch

from negcache.encoder import ItemEncoder, Progress
from negcache.errors import InputError
from negcache.shapes import Float, Float64, Int, Tensor

AT_ONCE = 1024
"""Items encoded at a time."""


class FreshItems:
    """Embeddings of today, each item encoded once, when it is first asked for; no gradient.

    Args:
        encoder: of the items.
        num_items: N.
        device: where ids are.
    """

    def __init__(
        self, encoder: ItemEncoder, num_items: int, device: torch.device | str = "cpu"
    ) -> None:
        self.encoder = encoder
        self.place = torch.full((num_items,), -1, device=device)
        self.table: Float[Tensor, "n D"] | None = None

    @property
    def num_encoded(self) -> int:
        return 0 if self.table is None else len(self.table)

    def encode(self, ids: Int[Tensor, "M"], progress: Progress = iter) -> None:
        """Those that are not there yet."""
        new = torch.unique(ids[self.place[ids] < 0])
        if not len(new):
            return
        parts = [rows for _, rows in self.encoder.encode_all(new, AT_ONCE, progress)]
        self.place[new] = torch.arange(len(new), device=new.device) + self.num_encoded
        self.table = torch.cat([*([] if self.table is None else [self.table]), *parts])

    def __call__(self, ids: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        self.encode(ids)
        assert self.table is not None
        return self.table[self.place[ids]]


@dataclass(frozen=True)
class ItemSample:
    """Items that stand for all: some for themselves, the others, drawn uniformly, for many each.

    Args:
        ids: ascending.
        weight: how many items each stands for.
        num_items: of the corpus.
    """

    ids: Int[Tensor, "n"]
    weight: Float64[Tensor, "n"]
    num_items: int

    @staticmethod
    def of_all(num_items: int, device: torch.device | str = "cpu") -> "ItemSample":
        """Every item, for itself."""
        ids = torch.arange(num_items, device=device)
        return ItemSample(ids, torch.ones(num_items, dtype=torch.float64, device=device), num_items)

    @staticmethod
    def drawn(
        num_items: int, count: int, certain: Int[Tensor, "c"], generator: torch.Generator
    ) -> "ItemSample":
        """``certain`` for themselves, and ``count`` of the others without replacement.

        Raises:
            InputError: ``count`` below 1.
        """
        if count < 1:
            raise InputError("1 item or more to stand for all", f"{count}", "take some hundreds")
        certain = torch.unique(certain)
        others = torch.ones(num_items, dtype=torch.bool)
        others[certain.cpu()] = False
        rest = others.nonzero().squeeze(1)
        if count >= len(rest):
            return ItemSample.of_all(num_items, certain.device)
        chosen = rest[torch.randperm(len(rest), generator=generator)[:count]].to(certain.device)
        ids, order = torch.cat([certain, chosen]).sort()
        weight = torch.ones(len(ids), dtype=torch.float64, device=ids.device)
        weight[len(certain) :] = len(rest) / count
        return ItemSample(ids, weight[order], num_items)

    @property
    def is_all(self) -> bool:
        return len(self.ids) == self.num_items

    def places(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        """Where each item stands in the sample; -1: it does not."""
        if self.is_all:
            return ids
        found = torch.searchsorted(self.ids, ids).clamp_(max=len(self.ids) - 1)
        return found.where(self.ids[found] == ids, -1)
