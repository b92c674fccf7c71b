"""The numbers that all else follows from: config, data and towers, in one place."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from negcache.errors import InputError
from negcache.ops.shards import rows_of_each
from negcache.run.cli.planning.facts import Facts
from negcache.run.cli.planning.samplers import SamplerCost, sampler_cost
from negcache.run.cli.planning.tower import TowerSize, static_size
from negcache.run.training import Config


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
        word = self.config.sampler.name
        by_cache = word == "auto" and self.config.data.pairs is not None
        return sampler_cost("cached" if by_cache else word)

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
    def is_streaming(self) -> bool:
        """Whether a cache holds the last items of a stream."""
        return self.cost.keeps_cache and self.config.cache.kind == "streaming"

    @property
    def all_rows(self) -> int:
        """Items that can be drawn: rows of the cache of all processes, else all items."""
        return (self.config.cache.size or 0) if self.is_streaming else self.facts.num_items

    @property
    def rows(self) -> int:
        """Rows that are kept on one process, where any are."""
        rows, cached = self.all_rows, self.cost.keeps_cache
        return max(rows_of_each(rows, self.processes)) if cached else rows

    @property
    def searched(self) -> int:
        """Items that evaluation and search encode."""
        facts = self.facts
        return facts.num_items if facts.searched is None else facts.searched

    @property
    def drawn(self) -> int:
        """Items drawn by the sampler for these queries, at most."""
        return self.cost.drawn(self.asked, self.each, self.all_rows)

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
        data = self.config.data
        if not self.cost.keeps_cache:
            return 0
        come = data.items_per_step if data.items is not None else 0
        return math.ceil((self.looked_at + come) / self.processes)

    @property
    def looked_at(self) -> float | int:
        """Rows that are looked at again a step, on average, of all processes."""
        cache = self.config.cache
        return cache.refresh * self.all_rows if cache.refresh_rows is None else cache.refresh_rows

    @property
    def on_disk(self) -> bool:
        """Whether the rows of a cache are in files."""
        return self.cost.keeps_cache and self.config.cache.on_disk

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


def planned_run(
    config: Config, facts: Facts, device: torch.device, processes: int = 1
) -> PlannedRun:
    """All that the arithmetic needs; nothing is allocated.

    Raises:
        InputError: rows in files are asked for, and the others of a step would be on a GPU.
    """
    if config.cache.on_disk and device.type != "cpu":
        raise InputError(
            "a run on the CPU with cache.on_disk",
            f"device {device}",
            'set device = "cpu", or leave cache.on_disk out',
        )
    size = tower_size(config, facts.vocab_size)
    return PlannedRun(config, facts, size, device.type == "cuda", processes)


def tower_size(config: Config, vocab_size: int) -> TowerSize:
    """The size of a config's tower; the transformer's configs are read, its weights are not."""
    keys = config.tower
    if keys.kind == "static":
        return static_size(vocab_size, keys.dim, keys.width)
    from negcache.run.cli.planning.encoder import transformer_size

    return transformer_size(
        Path(str(keys.folder)), keys.train_layers, checkpointing=keys.gradient_checkpointing
    )
