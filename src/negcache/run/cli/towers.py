"""The words of ``tower.kind``: two towers, and how texts become what they read."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from negcache.errors import InputError
from negcache.interfaces import Corpus
from negcache.run.data import Task
from negcache.run.data.streams import ToBags, Tokenize
from negcache.run.training import Config
from negcache.towers import StaticTower


@dataclass(frozen=True)
class Towers:
    """Two towers, and what they read.

    Args:
        query_tower, item_tower: features -> (B, dim); one, where they are shared.
        dim: of an embedding.
        tokenize: texts of a stream -> what the towers read.
        over: a task -> what the towers read of its queries and items, by row.
    """

    query_tower: nn.Module
    item_tower: nn.Module
    dim: int
    tokenize: Tokenize
    over: Callable[[Task], tuple[Corpus, Corpus]]

    def read(self, text: str) -> Any:
        """What the query tower reads of a text that is in no file."""
        return (self.tokenize.queries or self.tokenize.items)([text])


def make_towers(config: Config, tokenizer: Tokenizer | None) -> Towers:
    """The towers of a config, as they begin.

    Args:
        config: of the run.
        tokenizer: of the data; a transformer has its own.
    """
    return TOWERS[config.tower.kind](config, tokenizer)


def check_tower(config: Config) -> None:
    """Refuse a tower that could not be read; reads no weights."""
    if config.tower.kind == "transformer":
        _transformer_tower().check_folder(str(config.tower.folder), config.tower.pooling)


def _static(config: Config, tokenizer: Tokenizer | None) -> Towers:
    assert tokenizer is not None

    def make() -> StaticTower:
        keys = config.tower
        return StaticTower(tokenizer.get_vocab_size(), keys.dim, keys.width)

    query_tower = make()
    item_tower = query_tower if config.tower.shared else make()
    return Towers(
        query_tower,
        item_tower,
        config.tower.dim,
        Tokenize(ToBags(tokenizer)),
        lambda task: (task.queries, task.corpus),
    )


def _transformer(config: Config, _: Tokenizer | None) -> Towers:
    from negcache.towers.text_corpus import TextCorpus

    keys, load = config.tower, _transformer_tower().load

    def make(prompt: str) -> Any:
        return load(
            str(keys.folder),
            pooling=keys.pooling,
            prompt=prompt,
            max_length=keys.max_length,
            normalize=config.score.normalize,
            gradient_checkpointing=keys.gradient_checkpointing,
            train_layers=keys.train_layers,
        )

    query_tower = make(keys.query_prompt)
    item_tower = query_tower if keys.shared else make(keys.item_prompt)

    @cache  # training and search read one
    def over(task: Task) -> tuple[Corpus, Corpus]:
        queries = TextCorpus(task.query_text, query_tower, prompt=keys.query_prompt)
        return queries, TextCorpus(task.corpus_text, item_tower, prompt=keys.item_prompt)

    tokenize = Tokenize(
        partial(item_tower.tokenize_alike, prompt=keys.item_prompt),
        partial(query_tower.tokenize, prompt=keys.query_prompt),
    )
    return Towers(query_tower, item_tower, item_tower.dim, tokenize, over)


TOWERS: dict[str, Callable[[Config, Tokenizer | None], Towers]] = {
    "static": _static,
    "transformer": _transformer,
}
"""The words of ``tower.kind``."""


def _transformer_tower() -> Any:
    """The class; it needs an extra of its own, and is slow to import."""
    try:
        from negcache.towers.transformer import TransformerTower
    except ImportError as error:
        raise InputError(
            'sentence-transformers for tower.kind "transformer"',
            str(error),
            'pip install "negcache[transformers]"',
        ) from error
    return TransformerTower
