"""Texts as a corpus for a transformer: tokenized when they are asked for."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from negcache.errors import InputError
from negcache.shapes import Int, Tensor
from negcache.towers.transformer import TransformerTower


@runtime_checkable
class TextRows(Protocol):
    """Texts that stay on disk and are read by row, such as ``negcache.data.TextTable``."""

    def __len__(self) -> int: ...
    def texts(self, rows: Any) -> list[str]: ...


class TextCorpus:
    """Token batches of texts by id; an `interfaces.Corpus`. Nothing is kept but the texts.

    Args:
        texts: a list, or a table that reads rows from disk.
        tokenizer: the tower that will read them, or a Hugging Face tokenizer.
        prompt: put before each text; None: the tower's own, or none.
        max_length: tokens of a text, prompt and special tokens included; longer texts are cut,
            counted in ``num_truncated``, and told of once. None: as the tower or tokenizer says.

    Raises:
        InputError: max_length beyond what the tower can read.
    """

    def __init__(
        self,
        texts: Sequence[str] | TextRows,
        tokenizer: TransformerTower | Callable[..., Any],
        *,
        prompt: str | None = None,
        max_length: int | None = None,
    ) -> None:
        if isinstance(tokenizer, TransformerTower) and max_length is not None:
            tokenizer.check_length(max_length)
        self.texts, self.tokenizer = texts, tokenizer
        self.prompt, self.max_length = prompt, max_length
        self._cut = torch.zeros(len(texts), dtype=torch.bool)

    @property
    def num_truncated(self) -> int:
        """Texts that were longer than ``max_length``, of those met so far."""
        return int(self._cut.sum())

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> Any:
        """Token ids and masks [M, L], padded to the longest of these texts; moved by ``.to``."""
        rows = ids.cpu()
        if not len(rows):
            raise InputError("at least one id", "none", "ask for some texts")
        features = self.tokens(self._read(rows))
        cut = torch.tensor([bool(one.overflowing) for one in features.encodings])
        if cut.any() and not self._cut.any():
            warnings.warn(
                f"Texts are longer than the {features['input_ids'].shape[1]} tokens that are read "
                f"of each: {int(cut.sum())} of the first {len(cut)} with one. They are cut; "
                "num_truncated counts them.",
                stacklevel=2,
            )
        self._cut[rows[cut]] = True
        return features.to(ids.device)

    def tokens(self, texts: list[str]) -> Any:
        """Texts that are in no corpus, tokenized as these are."""
        if isinstance(self.tokenizer, TransformerTower):
            return self.tokenizer.tokenize(texts, prompt=self.prompt, max_length=self.max_length)
        return self.tokenizer(
            [(self.prompt or "") + text for text in texts],
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )

    def _read(self, rows: Tensor) -> list[str]:
        if isinstance(self.texts, Sequence):
            return [str(self.texts[row]) for row in rows.tolist()]
        return self.texts.texts(rows)
