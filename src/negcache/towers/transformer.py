"""A sentence-transformers model as a tower. Needs the extra ``transformers``; never goes online."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from negcache.errors import InputError
from negcache.shapes import Float, Tensor
from negcache.towers.model_folder import (
    SentenceTransformer,
    check_folder,
    check_length,
    dimensions,
    freeze_below,
    read,
    set_length,
    set_normalize,
    transformer_of,
    without_bars,
)

TEXTS_AT_ONCE = 64  # encoded without gradient; bounds memory when a whole corpus is asked for


class TransformerTower(nn.Module):
    """A text encoder with its tokenizer and pooling: tokenized texts -> embeddings.

    Without gradient, texts are encoded 64 at a time and by length, so that asking for many
    costs no more memory and little padding.

    Args:
        model: its first module a transformer, as ``load`` makes it.
        prompt: put before every text unless another is asked for.
    """

    def __init__(self, model: SentenceTransformer, *, prompt: str = "") -> None:
        super().__init__()
        transformer_of(model)
        self.model, self.prompt = model, prompt
        self.dim = dimensions(model)

    @staticmethod
    def load(
        folder: str | Path,
        *,
        pooling: str | None = None,
        prompt: str = "",
        max_length: int | None = None,
        normalize: bool | None = None,
        gradient_checkpointing: bool = False,
        train_layers: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "TransformerTower":
        """Read a model from a folder on disk; in training mode, as any new module.

        Args:
            folder: of a sentence-transformers model, or of a plain Hugging Face encoder.
            pooling: "mean", "cls", "max", "lasttoken" and so on; for a plain encoder only.
            prompt: put before every text, such as "query: ".
            max_length: tokens of a text, prompt and special tokens included; longer ones are cut.
                None: as the folder says.
            normalize: whether embeddings have unit norm, here and where the tower is saved.
                None: as the folder says.
            gradient_checkpointing: keep the input of each layer alone and compute the rest again
                in backward: less memory, about a third more time.
            train_layers: only so many of the topmost layers, and what is above, get gradient.
            dtype: of the parameters.

        Raises:
            InputError: no model there, no pooling, or a length or layers that the model lacks.
        """
        model = read(Path(folder), pooling, dtype)
        set_length(model, max_length)
        if normalize is not None:
            set_normalize(model, normalize)
        if train_layers is not None:
            freeze_below(model, train_layers)
        if gradient_checkpointing:
            transformer_of(model).auto_model.activation_checkpointing_enable()
        return TransformerTower(model, prompt=prompt).train()

    @staticmethod
    def check_folder(folder: str | Path, pooling: str | None = None) -> None:
        """Refuse a folder that ``load`` could not read; reads no weights."""
        check_folder(Path(folder), pooling)

    @property
    def max_length(self) -> int:
        """Tokens of a text, prompt and special tokens included."""
        return int(self.model.max_seq_length or 0)

    def tokenize(
        self, texts: Sequence[str], *, prompt: str | None = None, max_length: int | None = None
    ) -> Any:
        """Token ids and masks [B, L], padded to the longest of these texts.

        Args:
            texts: at least one.
            prompt: put before each; None: the tower's own.
            max_length: cut at so many tokens; None: the tower's own.
        """
        prompt = self.prompt if prompt is None else prompt
        return self.model.preprocess(list(texts), prompt=prompt, max_length=max_length)

    def tokenize_alike(
        self, texts: Sequence[str], *, prompt: str | None = None
    ) -> dict[str, Tensor]:
        """Tensors [B, max_length] by name, of one shape whatever the texts: what a cache can keep.

        Args:
            texts: also none.
            prompt: put before each; None: the tower's own.
        """
        made = self.tokenize([*texts, ""], prompt=prompt)
        found = {name: each for name, each in made.items() if isinstance(each, Tensor)}
        room = self.max_length - found["input_ids"].shape[1]
        sides = (room, 0) if self.model.tokenizer.padding_side == "left" else (0, room)
        fill = {"input_ids": self.model.tokenizer.pad_token_id or 0}
        return {
            name: F.pad(each[:-1], sides, value=fill.get(name, 0)) for name, each in found.items()
        }

    def check_length(self, max_length: int) -> None:
        """Refuse a length that the model cannot read."""
        check_length(self.model, max_length)

    def forward(self, features: Mapping[str, Any]) -> Float[Tensor, "B D"]:
        """Embeddings of what ``tokenize`` made."""
        if torch.is_grad_enabled() or len(features["input_ids"]) <= TEXTS_AT_ONCE:
            needed = bool(features["attention_mask"].any(dim=0).all())
            return self._embed(features if needed else _only(features, slice(None)))
        order = features["attention_mask"].sum(dim=1).argsort(descending=True, stable=True)
        parts = [self._embed(_only(features, rows)) for rows in order.split(TEXTS_AT_ONCE)]
        return torch.cat(parts)[order.argsort()]

    def save(self, folder: str | Path, *, prompts: Mapping[str, str] | None = None) -> Path:
        """Write a folder that ``SentenceTransformer(folder)`` loads; whole or not at all.

        Args:
            folder: to be made.
            prompts: by sentence-transformers' names, "query" and "document"; None: the tower's own
                for both. Where all are equal, ``encode`` uses it too.
        """
        folder = Path(folder)
        if folder.exists():
            raise InputError("a folder that does not exist yet", f"{folder}", "choose another")
        prompts = {"query": self.prompt, "document": self.prompt} if prompts is None else prompts
        same = len(set(prompts.values())) == 1 and any(prompts.values())
        self.model.prompts |= prompts
        self.model.default_prompt_name = next(iter(prompts)) if same else None
        folder.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{folder.name.lstrip('.')}.part-"
        with TemporaryDirectory(f"-{os.getpid()}", prefix, folder.parent) as beside:
            with without_bars():
                self.model.save(f"{beside}/model", create_model_card=False)
            os.rename(f"{beside}/model", folder)
        return folder

    def _embed(self, features: Mapping[str, Any]) -> Tensor:
        return self.model(dict(features))["sentence_embedding"]


def _only(features: Mapping[str, Any], rows: Tensor | slice) -> dict[str, Any]:
    """Some texts, without the columns that are padding in all of them."""
    columns = features["attention_mask"][rows].any(dim=0)
    return {
        name: value[rows][:, columns] if isinstance(value, torch.Tensor) else value
        for name, value in features.items()
    }
