"""The items of a corpus, as a sentence-transformers model reads them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from negcache.encoder import to_device
from negcache.shapes import Float, Int, Tensor

TEXTS_AT_ONCE = 64
"""Encoded without gradient; bounds memory when a whole corpus is asked for."""
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
            return Tokens([self._tokenize(texts)], None)
        order = torch.tensor([-len(text) for text in texts]).argsort(stable=True)
        parts = [
            self._tokenize([texts[row] for row in rows]) for rows in order.split(TEXTS_AT_ONCE)
        ]
        return Tokens(parts, order.argsort())

    def _tokenize(self, texts: list[str]) -> dict[str, Any]:
        if hasattr(self.model, "preprocess"):
            return dict(self.model.preprocess(texts, prompt=self.prompt, task="document"))
        prompted = [self.prompt + text for text in texts]  # sentence-transformers before 5.4
        return dict(self.model.tokenize(prompted, task="document"))


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
