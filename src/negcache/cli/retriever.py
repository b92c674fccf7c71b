"""A trained pair of towers over a task: evaluated on its splits, asked with free text."""

from dataclasses import dataclass

import torch
from torch import nn

from negcache.data import Task
from negcache.evaluation import Evaluation, Side, encode_all, evaluate
from negcache.score import DotScore
from negcache.shapes import Float, Int, Tensor
from negcache.towers import Bags
from negcache.training.progress import track


@dataclass(frozen=True)
class Retriever:
    """A trained pair of towers over a task: what evaluation and search need."""

    task: Task
    query_tower: nn.Module
    item_tower: nn.Module
    score: DotScore
    max_tokens: int

    def evaluate(self, split: str) -> Evaluation:
        """Search all queries of a split over all items."""
        judged = self.task.judgements(split)
        queries = Side(self.query_tower, self.task.queries, self.task.query_text)
        items = Side(self.item_tower, self.task.corpus, self.task.corpus_text)
        return evaluate(queries, items, self.score, judged, progress=track("encoding items"))

    def encode_items(self) -> Float[Tensor, "N D"]:
        """The whole corpus, as search sees it."""
        progress = track("encoding items")
        return encode_all(self.item_tower, self.task.corpus, self.score, progress=progress)

    def encode_text(self, text: str) -> Float[Tensor, "1 D"]:
        """A query that is in no file."""
        encoding = self.task.tokenizer.encode(text, add_special_tokens=False)
        tokens = torch.tensor(encoding.ids[: self.max_tokens], dtype=torch.int64)
        bags = _OneText(Bags(tokens, torch.zeros(1, dtype=torch.int64)))
        return encode_all(self.query_tower, bags, self.score)


@dataclass(frozen=True)
class _OneText:
    """A corpus of one text."""

    bags: Bags

    def __len__(self) -> int:
        return 1

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> Bags:
        return self.bags
