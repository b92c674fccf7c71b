"""Small sentence-transformers models of every kind, and real texts to train them on."""

from collections import Counter
from functools import cache
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from negcache.run.data.wordnet import entries

DIM, VOCABULARY = 16, 300
SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}


@cache
def words_and_meanings(count: int = 60) -> tuple[list[str], list[str]]:
    """Consecutive nouns of WordNet and what they mean."""
    chosen = [entry for entry in entries() if entry.pos == "n"][1000 : 1000 + count]
    return [", ".join(entry.lemmas) for entry in chosen], [entry.definition for entry in chosen]


def asked_and_meant(count: int = 60) -> Dataset:
    words, meanings = words_and_meanings(count)
    return Dataset.from_dict({"anchor": words, "positive": meanings})


@cache
def tokenizer_text() -> str:
    """The words that occur most often in these texts; the same in every process."""
    normalizer, splitter = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    texts = [normalizer.normalize_str(text) for part in words_and_meanings() for text in part]
    counts = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(text))
    kept = sorted(counts, key=lambda word: (-counts[word], word))[: VOCABULARY - len(SPECIAL)]
    vocabulary = {word: number for number, word in enumerate([*SPECIAL.values(), *kept])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    return tokenizer.to_str()


def static(seed: int = 0) -> StaticEmbedding:
    torch.manual_seed(seed)
    return StaticEmbedding(Tokenizer.from_str(tokenizer_text()), embedding_dim=DIM)


def static_model() -> SentenceTransformer:
    """A mean of token vectors: no attention mask, no padding."""
    return SentenceTransformer(modules=[static()], device="cpu")


def router_model() -> SentenceTransformer:
    """Queries and documents by towers of their own; nobody is sent to documents by default."""
    router = Router.for_query_document([static(0)], [static(1)], default_route="query")
    return SentenceTransformer(modules=[router], device="cpu")


def bert_model(folder: Path, dropout: float = 0.0) -> SentenceTransformer:
    """Two layers of random weights, mean pooling, unit norm."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer.from_str(tokenizer_text())
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(folder)
    transformer = Transformer(str(folder))
    return SentenceTransformer(modules=[transformer, Pooling(DIM), Normalize()], device="cpu")
