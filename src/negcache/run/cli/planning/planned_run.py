"""The numbers that all else follows from: config, data and towers, in one place."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from negcache.ops.shards import rows_of_each
from negcache.run.cli.planning.samplers import SamplerCost, sampler_cost
from negcache.run.cli.planning.tower import TowerSize, static_size
from negcache.run.data import Task
from negcache.run.data.tokens import TokenFile
from negcache.run.training import Config


@dataclass(frozen=True)
class Facts:
    """What a plan has to know of the data.

    Args:
        num_items: N.
        num_pairs: training pairs.
        vocab_size: of the task's tokenizer.
        item_tokens, query_tokens: mean tokens of a text, as the task's tokenizer cuts it.
        judgement_bytes: of all judgements; they are held in memory.
        mapped_bytes: of the token files; mapped from disk, never all in memory.
    """

    num_items: int
    num_pairs: int
    vocab_size: int
    item_tokens: float
    query_tokens: float
    judgement_bytes: int = 0
    mapped_bytes: int = 0


@dataclass(frozen=True)
class PlannedRun:
    """A run that has not begun.

    Args:
        config: of the run.
        facts: of its data.
        tower: its size.
        on_gpu: whether the device is one.
        processes: K, that train together; what is told of one is that of the one with most to do.
    """

    config: Config
    facts: Facts
    tower: TowerSize
    on_gpu: bool = False
    processes: int = 1

    @property
    def cost(self) -> SamplerCost:
        """Of the sampler's word."""
        return sampler_cost(self.config.sampler.name)

    @property
    def towers(self) -> int:
        """Towers with parameters of their own."""
        return 1 if self.config.tower.shared else 2

    @property
    def mined(self) -> int:
        """h: mined negatives of a query, at most."""
        return self.config.data.negatives_per_query if self.config.data.negatives else 0

    @property
    def each(self) -> int:
        """m: draws per query."""
        return self.cost.each(self.config.sampler)

    @property
    def is_shared(self) -> bool:
        """Whether several processes draw and encode together."""
        return self.processes > 1 and (self.cost.keeps_cache or self.is_pooled)

    @property
    def queries(self) -> int:
        """Of a batch, on one process."""
        return math.ceil(self.config.batch_size / self.processes)

    @property
    def asked(self) -> int:
        """Queries of a batch that draws are made for on one process."""
        return self.config.batch_size if self.is_shared else self.queries

    @property
    def rows(self) -> int:
        """Rows that are kept on one process, where any are."""
        items, cached = self.facts.num_items, self.cost.keeps_cache
        return max(rows_of_each(items, self.processes)) if cached else items

    @property
    def drawn(self) -> int:
        """Items drawn by the sampler for these queries, at most."""
        return self.cost.drawn(self.asked, self.each, self.facts.num_items)

    @property
    def encoded(self) -> int:
        """Items encoded for them with gradient, at most; an item met twice is encoded once."""
        return min(self.asked * (1 + self.mined) + self.drawn, self.facts.num_items)

    @property
    def encoded_here(self) -> int:
        """Those among them that one process encodes."""
        return math.ceil(self.encoded / self.processes) if self.is_shared else self.encoded

    @property
    def refreshed(self) -> int:
        """Rows that one process encodes without gradient a step, on average, rounded up."""
        cache, items = self.config.cache, self.facts.num_items
        if not self.cost.keeps_cache:
            return 0
        rows = cache.refresh * items if cache.refresh_rows is None else cache.refresh_rows
        return math.ceil(rows / self.processes)

    @property
    def is_pooled(self) -> bool:
        """Whether scores of drawn items are a table [B, M] rather than columns [B, m]."""
        return self.config.sampler.shared if self.cost.pooled is None else self.cost.pooled

    @property
    def table(self) -> int:
        """Items that every query is scored against."""
        batch = self.asked if self.cost.scores_batch else 0
        return batch + self.drawn if self.is_pooled else 0

    @property
    def columns(self) -> int:
        """Items that each query is scored against alone, its positive included."""
        return 1 + self.mined + (0 if self.is_pooled else self.each)


def planned_run(config: Config, task: Task, device: torch.device, processes: int = 1) -> PlannedRun:
    """All that the arithmetic needs; nothing is allocated."""
    facts = facts_of(task, config.tower.max_length)
    size = tower_size(config, facts.vocab_size)
    return PlannedRun(config, facts, size, device.type == "cuda", processes)


def facts_of(task: Task, most_tokens: int | None = None) -> Facts:
    """The facts of an open task; reads no text and no token.

    Args:
        task: prepared.
        most_tokens: texts are cut to so many tokens once more, by the tower.
    """
    files = (task.corpus, task.queries)
    return Facts(
        num_items=len(task.corpus),
        num_pairs=len(task.judgements("train").positives()),
        vocab_size=task.vocab_size,
        item_tokens=_mean_length(task.corpus, most_tokens),
        query_tokens=_mean_length(task.queries, most_tokens),
        judgement_bytes=sum(
            part.nbytes
            for judged in task.splits.values()
            for part in (judged.queries, judged.items, judged.grades)
        ),
        mapped_bytes=sum(file.tokens.nbytes + file.offsets.nbytes for file in files),
    )


def tower_size(config: Config, vocab_size: int) -> TowerSize:
    """The size of a config's tower; the transformer's configs are read, its weights are not."""
    keys = config.tower
    if keys.kind == "static":
        return static_size(vocab_size, keys.dim, keys.width)
    from negcache.run.cli.planning.encoder import transformer_size

    return transformer_size(
        Path(str(keys.folder)), keys.train_layers, checkpointing=keys.gradient_checkpointing
    )


def _mean_length(file: TokenFile, most: int | None) -> float:
    lengths = np.diff(file.offsets)
    return float(np.minimum(lengths, most or lengths.max()).mean())
