"""Items as the tower is now, and which of them stand for all."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch

from negcache.diagnosis.stream_items import ItemsInMemory, StreamItems
from negcache.encoder import ItemEncoder, Progress
from negcache.errors import InputError
from negcache.shapes import Bool, Float, Float64, Int, Tensor

AT_ONCE = 1024
"""Items encoded at a time."""


@runtime_checkable
class Knowing(Protocol):
    """A corpus that has the features of some items."""

    def knows(self, ids: Int[Tensor, "M"]) -> Bool[Tensor, "M"]: ...


class FreshItems:
    """Embeddings of today, each item encoded once, when it is first asked for; no gradient.

    Args:
        encoder: of the items.
        num_items: N.
        device: where ids are.
        stream: all items, where the corpus of the encoder has not all of them; None: it has.
    """

    def __init__(
        self,
        encoder: ItemEncoder,
        num_items: int,
        device: torch.device | str = "cpu",
        stream: StreamItems | None = None,
    ) -> None:
        self.encoder, self.stream = encoder, stream
        self.ids = None if stream is None else stream.ids.to(device)
        self.place = torch.full((num_items,), -1, device=device)
        self.table: Float[Tensor, "n D"] | None = None

    @property
    def num_encoded(self) -> int:
        return 0 if self.table is None else len(self.table)

    def there(self, ids: Int[Tensor, "M"]) -> Bool[Tensor, "M"]:
        """Which of them are encoded."""
        return self.place[self._numbers(ids)] >= 0

    def encode(self, ids: Int[Tensor, "M"], progress: Progress = iter) -> None:
        """Those that are not there yet; of a stream, those that have features."""
        new = torch.unique(ids[~self.there(ids)])
        if not len(new):
            return
        parts = [] if self.table is None else [self.table]
        for some, rows in self._encoded(new, progress):
            first = sum(map(len, parts))
            self.place[self._numbers(some)] = torch.arange(len(some), device=some.device) + first
            parts.append(rows)
        self.table = torch.cat(parts) if parts else None

    def __call__(self, ids: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        self.encode(ids)
        places = self.place[self._numbers(ids)]
        if self.stream is not None and bool((places < 0).any()):
            raise InputError(
                "features of every item that is asked for",
                f"none of item {int(ids[places < 0][0])}",
                "leave items without features out of those of the stream",
            )
        assert self.table is not None
        return self.table[places]

    def _numbers(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        """Of items, from 0 on. Raises InputError: one is none of the stream's."""
        if self.ids is None:
            return ids
        found = torch.searchsorted(self.ids, ids.contiguous()).clamp_(max=len(self.ids) - 1)
        if bool((strange := self.ids[found] != ids).any()):
            raise InputError(
                "among the items of the stream every one that has come",
                f"{int(strange.sum())} others, the first of id {int(ids[strange][0])}",
                "name all items that pairs and cache have",
            )
        return found

    def _encoded(self, ids: Tensor, progress: Progress) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of distinct items, some at a time: from the corpus those that it has."""
        if self.stream is None:
            yield from self.encoder.encode_all(ids, AT_ONCE, progress)
            return
        corpus = self.encoder.corpus
        known = torch.zeros_like(ids, dtype=torch.bool)
        if isinstance(corpus, Knowing):
            known = corpus.knows(ids).to(ids.device)
        yield from self.encoder.encode_all(ids[known], AT_ONCE)
        rest = ids[~known]
        for some, features in progress(self.stream.read(rest)) if len(rest) else ():
            if len(some):
                encoder = replace(self.encoder, corpus=ItemsInMemory(some, features))
                yield from encoder.encode_all(some.to(ids.device), AT_ONCE)


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
    def of_all(
        num_items: int, device: torch.device | str = "cpu", ids: Tensor | None = None
    ) -> "ItemSample":
        """Every item, for itself; ``ids`` are theirs, None: numbers."""
        ids = torch.arange(num_items, device=device) if ids is None else ids.to(device)
        return ItemSample(ids, torch.ones(num_items, dtype=torch.float64, device=device), num_items)

    @staticmethod
    def drawn(
        every: Int[Tensor, "N"], count: int, certain: Int[Tensor, "c"], generator: torch.Generator
    ) -> "ItemSample":
        """``certain`` for themselves, and ``count`` of the others without replacement.

        Args:
            every: ids of all items, ascending; the certain are among them.

        Raises:
            InputError: ``count`` below 1.
        """
        if count < 1:
            raise InputError("1 item or more to stand for all", f"{count}", "take some hundreds")
        certain = torch.unique(certain)
        rest = every[torch.isin(every, certain.to(every.device), invert=True)]
        if count >= len(rest):
            return ItemSample.of_all(len(every), certain.device, every)
        chosen = rest[torch.randperm(len(rest), generator=generator)[:count].to(rest.device)]
        ids, order = torch.cat([certain, chosen.to(certain.device)]).sort()
        weight = torch.ones(len(ids), dtype=torch.float64, device=ids.device)
        weight[len(certain) :] = len(rest) / count
        return ItemSample(ids, weight[order], len(every))

    def only(self, kept: Bool[Tensor, "n"]) -> "ItemSample":
        """Without items that turned out to be none; those drawn for them stood for such."""
        num_items = self.num_items if not self.is_all else int(kept.sum())
        return ItemSample(self.ids[kept], self.weight[kept], num_items)

    @property
    def is_all(self) -> bool:
        return len(self.ids) == self.num_items

    def places(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        """Where each item stands in the sample; -1: it does not."""
        if self.is_all and int(self.ids[-1]) == len(self.ids) - 1:
            return ids
        found = torch.searchsorted(self.ids, ids.contiguous()).clamp_(max=len(self.ids) - 1)
        return found.where(self.ids[found] == ids, -1)
