"""From the texts of a batch to what towers take."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from negcache.run.data.streams.batch import StreamBatch
from negcache.run.data.tokenizer import coded
from negcache.shapes import Bool, Int, Tensor
from negcache.towers import Bags


@dataclass(frozen=True)
class TokenizedBatch:
    """A batch as towers take it.

    Args:
        number: of the batch.
        item_ids: int64; strings are hashed.
        queries: what ``Tokenize.queries`` made; None in a stream of items.
        items: what ``Tokenize.items`` made; None where items have features alone.
        features: by column; of numbers, or rows of numbers.
        query_ids: int64; strings are hashed. None in a stream of items.
        left_out: rows that had nothing to learn from.
    """

    number: int
    item_ids: Int[Tensor, "B"]
    queries: Any
    items: Any
    features: dict[str, Tensor]
    query_ids: Int[Tensor, "B"] | None
    left_out: int = 0


@dataclass(frozen=True)
class Tokenize:
    """Tokenizes the queries and the texts of a batch.

    Args:
        items: texts -> what the item tower takes: `ToBags`, or ``TransformerTower.tokenize``.
        queries: likewise for queries; None: as items.
    """

    items: Callable[[list[str]], Any]
    queries: Callable[[list[str]], Any] | None = None

    def __call__(self, batch: StreamBatch) -> TokenizedBatch:
        queries = self.queries or self.items
        return TokenizedBatch(
            batch.number,
            batch.item_ids,
            None if batch.queries is None else queries(batch.queries),
            None if batch.texts is None else self.items(batch.texts),
            batch.features,
            batch.query_ids,
        )


@dataclass(frozen=True)
class WithTokens:
    """Tokenizes a batch without the rows whose query or item has no token, as a task's pairs are.

    Args:
        tokenize: queries and texts.
    """

    tokenize: Tokenize

    def __call__(self, batch: StreamBatch) -> TokenizedBatch:
        made = self.tokenize(batch)
        kept = torch.ones(len(batch), dtype=torch.bool)
        for texts, features in ((batch.queries, made.queries), (batch.texts, made.items)):
            if texts is not None:
                kept &= _have_tokens(texts, features)
        if bool(kept.all()):
            return made
        return replace(self.tokenize(batch.only(kept)), left_out=int((~kept).sum()))


def _have_tokens(texts: list[str], features: Any) -> Bool[Tensor, "B"]:
    if isinstance(features, Bags):
        return F.pad(features.starts, (0, 1), value=len(features.tokens)).diff() > 0
    return torch.tensor([bool(text.strip()) for text in texts], dtype=torch.bool)


@dataclass(frozen=True)
class ToBags:
    """Token ids of texts end to end, as the tokenizer of a task cuts them.

    Args:
        tokenizer: such as ``Task.tokenizer``.
    """

    tokenizer: Tokenizer

    def __call__(self, texts: list[str]) -> Bags:
        found = coded(self.tokenizer, texts)
        counts = torch.tensor([len(text.ids) for text in found], dtype=torch.int64)
        tokens = torch.tensor([token for text in found for token in text.ids], dtype=torch.int64)
        return Bags(tokens, counts.cumsum(0) - counts)
