"""The items of a corpus, as a sentence-transformers model reads them."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from negcache.encoder import to_device
from negcache.ragged import take_rows
from negcache.shapes import Float, Int, Tensor

TEXTS_AT_ONCE, BAGS_AT_ONCE = 64, 1024
"""Encoded without gradient, which bounds memory; and tokenized, for static models."""
QUERY_PROMPTS, ITEM_PROMPTS = ("query",), ("document", "passage", "corpus")
"""Names that sentence-transformers' ``encode_query`` and ``encode_document`` look for."""


class Tokens(NamedTuple):
    """Tokenized texts, some at a time.

    Args:
        parts: what the model takes, one batch after the other.
        places: where each text stands among them; None: in order.
    """

    parts: list[dict[str, Any]]
    places: Int[Tensor, "M"] | None

    def to(self, device: torch.device | str) -> "Tokens":
        places = None if self.places is None else self.places.to(device)
        return Tokens([to_device(part, torch.device(device)) for part in self.parts], places)


class Texts:
    """An `interfaces.Corpus` of texts, tokenized as documents when they are asked for.

    Without gradient, some at a time and by length, so that asking for many costs no more memory and
    little padding.

    Args:
        texts: of the items.
        model: whose tokenizer, and route for documents, they take.
        prompt: put before each.
    """

    def __init__(self, texts: list[str], model: SentenceTransformer, prompt: str) -> None:
        self.texts, self.model, self.prompt = texts, model, prompt

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> Tokens:
        texts = [self.texts[row] for row in ids.tolist()]
        if torch.is_grad_enabled() or len(texts) <= TEXTS_AT_ONCE:
            return self.tokenize(texts)
        order = torch.tensor([-len(text) for text in texts]).argsort(stable=True)
        some = (self.tokenize([texts[row] for row in rows]) for rows in order.split(TEXTS_AT_ONCE))
        return Tokens([part for tokens in some for part in tokens.parts], order.argsort())

    def tokenize(self, texts: list[str]) -> Tokens:
        """Any texts, as documents."""
        if hasattr(self.model, "preprocess"):
            part = self.model.preprocess(texts, prompt=self.prompt, task="document")
        else:  # sentence-transformers before 5.4
            part = self.model.tokenize([self.prompt + text for text in texts], task="document")
        return Tokens([dict(part)], None)


class Bags(Texts):
    """Texts of a static model, each tokenized once: it takes longer than embedding them.

    Holds four bytes a token.
    """

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> Tokens:
        tokens, counts = take_rows(*self._table, ids.numpy())
        starts = torch.from_numpy(counts.cumsum() - counts)
        return Tokens([{"input_ids": torch.from_numpy(tokens).long(), "offsets": starts}], None)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the tokens of each text begin, [N + 1], and the tokens."""
        tokens, counts = [], []
        for first in range(0, len(self.texts), BAGS_AT_ONCE):
            (part,) = self.tokenize(self.texts[first : first + BAGS_AT_ONCE]).parts
            ends = torch.tensor([len(part["input_ids"])])
            counts.append(torch.cat([part["offsets"], ends]).diff().numpy())
            tokens.append(part["input_ids"].to(torch.int32).numpy())
        offsets = np.concatenate([np.zeros(1, np.int64), np.concatenate(counts).cumsum()])
        return offsets, np.concatenate(tokens)


def corpus_of(texts: list[str], model: SentenceTransformer, prompt: str) -> Texts:
    """What the item tower takes from these texts."""
    is_static = type(model[0]).__name__ == "StaticEmbedding"  # its module moves between versions
    return (Bags if is_static else Texts)(texts, model, prompt)


class ItemTower(nn.Module):
    """The model that is trained, on items.

    The trainer puts its wrapped model into whatever is called ``model`` here.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model: nn.Module = model

    def forward(self, tokens: Tokens) -> Float[Tensor, "M D"]:
        rows = torch.cat([self.embed(part) for part in tokens.parts])
        return rows if tokens.places is None else rows[tokens.places]

    def embed(self, features: Mapping[str, Any]) -> Float[Tensor, "M D"]:
        """One batch of tokenized texts; what came is left as it is."""
        return self.model(dict(features))["sentence_embedding"]


def own_prompt(model: SentenceTransformer, names: Sequence[str]) -> str:
    """The prompt that the model has for texts of a kind, as its ``encode_...`` would take it."""
    known = [name for name in (*names, model.default_prompt_name) if name in model.prompts]
    return (model.prompts[known[0]] or "") if known else ""
