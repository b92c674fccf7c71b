"""The words of ``sampler.name``: the only place where "uniform" becomes ``Uniform``."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from negcache.errors import InputError
from negcache.interfaces import Sampler, Store
from negcache.run.cli.planning.samplers import sampler_cost
from negcache.run.cli.sampler_words import nearest_word
from negcache.run.training import Config
from negcache.run.training.config_tables import CacheConfig, SamplerConfig
from negcache.samplers import (
    Auto,
    CachedDistinct,
    CachedRest,
    CachedSoftmax,
    FullSoftmax,
    HeadTail,
    InBatch,
    Mixture,
    Popularity,
    SharedDraws,
    Uniform,
    quadratic,
    rf_softmax,
)
from negcache.shapes import Tensor
from negcache.stores import DenseCache, StreamingCache

NU = 4.0
"""Sharpness of rf_softmax's kernel, the published one."""


class SamplerInputs(NamedTuple):
    """What a sampler is built for.

    Args:
        config: of the run.
        dim: of an embedding.
        device: of the cache.
        num_items: of the corpus; None: items come by in a stream, and there is no corpus.
        counts: training positives of each of them.
        come: items that come in a stream of their own; None: there is no such stream.
        rows: file of a cache's rows; None: they are in memory.
        store: taken as the cache; None: one is made.
    """

    config: Config
    dim: int
    device: torch.device
    num_items: int | None = None
    counts: Callable[[], Tensor] | None = None
    come: int | None = None
    rows: Path | None = None
    store: Store | None = None

    @property
    def corpus(self) -> range:
        """Numbers of the items."""
        assert self.num_items is not None
        return range(self.num_items)

    def cache(self) -> Store:
        """The cache that the config asks for, still empty; or the one that is given."""
        if self.store is not None:
            return self.store
        keys = self.config.cache
        dtype: torch.dtype = getattr(torch, keys.dtype)
        if keys.kind == "dense":
            return DenseCache(
                len(self.corpus),
                self.dim,
                refresh=_refresh(keys, len(self.corpus)),
                dtype=dtype,
                device=self.device,
                path=self.rows,
            )
        assert keys.size is not None
        return StreamingCache(
            keys.size,
            self.dim,
            refresh=_refresh(keys, keys.size),
            eviction=keys.eviction,
            row_weight=keys.row_weight,
            num_items=self.come if keys.row_weight == "uniform" else None,
            dtype=dtype,
            device=self.device,
            path=self.rows,
        )


def build_sampler(inputs: SamplerInputs) -> Sampler:
    """The sampler of a config."""
    keys = inputs.config.sampler
    check_word(keys.name)
    idle = idle_keys(keys, keys.name)
    if idle:
        raise InputError(
            f"only keys that sampler.name {keys.name!r} uses",
            ", ".join(f"sampler.{key} {getattr(keys, key)}" for key in idle),
            "; ".join(f"sampler.{key} is for {' and '.join(USED_BY[key])}" for key in idle),
        )
    own_draws = keys.name in WITH_PARTITION and not (keys.name == "cached" and keys.shared)
    if keys.estimator == "cached_partition" and (not own_draws or keys.power != 1):
        raise InputError(
            'estimator "cached_partition" with draws of each query\'s own: sampler.name "cached" '
            'with sampler.shared false and power 1, "distinct" or "head_tail"',
            f'"{keys.name}", shared {keys.shared}, power {keys.power}'.lower(),
            'set sampler.estimator to "log_q_corrected"',
        )
    return SAMPLERS[keys.name](inputs, keys)


def idle_keys(keys: SamplerConfig, word: str) -> list[str]:
    """Those that are set and that this sampler does not use."""
    return [key for key, words in USED_BY.items() if word not in words and _is_set(keys, key)]


def _is_set(keys: SamplerConfig, key: str) -> bool:
    return getattr(keys, key) != SamplerConfig.model_fields[key].default


def check_word(word: str) -> None:
    """Refuse a word that names no sampler."""
    if word not in SAMPLERS:
        *others, last = map(repr, SAMPLERS)
        raise InputError(
            f"config key sampler.name to be {', '.join(others)} or {last}",
            repr(word),
            f"use {nearest_word(word)!r}, the nearest",
        )


def check_on_disk(config: Config) -> None:
    """Refuse rows in files, where no sampler has any."""
    word = config.sampler.name
    by_choice = word == "auto" and config.data.pairs is None  # it keeps what it stores in memory
    if config.cache.on_disk and (by_choice or not sampler_cost(word).keeps_cache):
        raise InputError(
            "cache.on_disk with a sampler that draws from cached rows",
            f'sampler.name "{word}"',
            'leave cache.on_disk out, or take sampler.name "cached"',
        )


def check_stream(config: Config) -> None:
    """Refuse, where a stream is learnt from, what has to know all items."""
    word, keys = config.sampler.name, config.cache
    if config.data.pairs is None or word in CORPUS_FREE:
        return
    others = " or ".join(f'"{each}"' for each in (*OF_ROWS, *CORPUS_FREE))
    if word not in OF_ROWS:
        raise InputError(
            f"with data.pairs a sampler that needs no corpus: {others}",
            f'sampler.name "{word}", which is over all items',
            'take "cached" with cache.kind "streaming", or train on a task, data.source alone',
        )
    if keys.kind != "streaming":
        raise InputError(
            f'cache.kind "streaming" with data.pairs and sampler.name "{word}"',
            f'"{keys.kind}", a row for every item of a corpus',
            'set cache.kind = "streaming" and cache.size',
        )
    if keys.row_weight == "uniform" and config.data.items is None:
        raise InputError(
            'data.items, all items as a stream, with cache.row_weight "uniform"',
            "none: how many items there are is not known",
            'name it, or take row_weight "dedup"',
        )


def _refresh(config: CacheConfig, num_items: int) -> float:
    if config.refresh_rows is None:
        return config.refresh
    if config.refresh_rows > num_items:
        raise InputError(
            f"cache.refresh_rows of at most the {num_items} items of the cache",
            f"{config.refresh_rows}",
            "refresh fewer rows",
        )
    return config.refresh_rows / num_items


def _cached(inputs: SamplerInputs, keys: SamplerConfig) -> CachedSoftmax:
    each = keys.num_negatives
    return CachedSoftmax(inputs.cache(), each, power=keys.power, scored=keys.scored)


def _pooled(sampler: Sampler, keys: SamplerConfig) -> Sampler:
    return SharedDraws(sampler) if keys.shared else sampler


def _uniform(inputs: SamplerInputs, keys: SamplerConfig) -> Sampler:
    return _pooled(Uniform(inputs.corpus, keys.num_negatives), keys)


def _popularity(inputs: SamplerInputs, keys: SamplerConfig) -> Sampler:
    assert inputs.counts is not None
    return _pooled(Popularity(inputs.counts() + 1, keys.num_negatives), keys)


def _mixture(inputs: SamplerInputs, keys: SamplerConfig) -> Sampler:
    return _pooled(Mixture(_cached(inputs, keys), Uniform(inputs.corpus, keys.uniform)), keys)


def _rest(inputs: SamplerInputs, keys: SamplerConfig) -> Sampler:
    wanted = min(keys.num_negatives * inputs.config.batch_size, len(inputs.corpus))
    return CachedRest(inputs.cache(), wanted)


def _in_batch(inputs: SamplerInputs, keys: SamplerConfig) -> Sampler:
    return InBatch(_log_shares(inputs))


def _log_shares(inputs: SamplerInputs) -> Tensor | None:
    """Of training positives; None: nobody has counted them."""
    if inputs.counts is None:
        return None
    counts = inputs.counts()
    return (counts / counts.sum()).log()


def _rf_softmax(inputs: SamplerInputs, keys: SamplerConfig) -> Sampler:
    score = inputs.config.score
    if not score.normalize or score.temperature > 1 / NU:
        raise InputError(
            f"score.normalize true and score.temperature of at most {1 / NU} for rf_softmax",
            f"normalize {score.normalize}, temperature {score.temperature}".lower(),
            'sampler.name "quadratic" takes any score',
        )
    return _pooled(rf_softmax(inputs.cache(), keys.num_negatives, nu=NU), keys)


def _auto(inputs: SamplerInputs, keys: SamplerConfig) -> Sampler:
    """Of a corpus whose positives are counted; over a stream, shared draws from its cache."""
    if inputs.num_items is None:
        return _pooled(_cached(inputs, keys), keys)
    if (keys.num_negatives, keys.shared) != (1, True):
        raise InputError(
            'no number of negatives with sampler.name "auto", which chooses it',
            f"num_negatives {keys.num_negatives}, shared {keys.shared}".lower(),
            'leave them out, or name a sampler, such as "cached"',
        )
    cache = inputs.config.cache
    refreshed = cache.refresh_rows
    if refreshed is None and cache.refresh != type(cache).model_fields["refresh"].default:
        refreshed = round(cache.refresh * inputs.num_items)
    dtype: torch.dtype = getattr(torch, cache.dtype)
    return Auto(inputs.corpus, log_popularity=_log_shares(inputs), refreshed=refreshed, dtype=dtype)


SAMPLERS: dict[str, Callable[[SamplerInputs, SamplerConfig], Sampler]] = {
    "auto": _auto,
    "cached": lambda inputs, keys: _pooled(_cached(inputs, keys), keys),
    "uniform": _uniform,
    "in_batch": _in_batch,
    "full": lambda inputs, keys: FullSoftmax(inputs.corpus),
    "cached_rest": _rest,
    "mixture": _mixture,
    "popularity": _popularity,
    "distinct": lambda inputs, keys: CachedDistinct(inputs.cache(), keys.num_negatives),
    "head_tail": lambda inputs, keys: HeadTail(inputs.cache(), keys.head, keys.num_negatives),
    "quadratic": lambda inputs, keys: _pooled(quadratic(inputs.cache(), keys.num_negatives), keys),
    "rf_softmax": _rf_softmax,
}
"""The words of ``sampler.name``; a new sampler adds one."""

OF_ROWS = ("auto", "cached", "distinct", "head_tail", "quadratic", "rf_softmax")
"""Samplers that draw from the rows there are."""

CORPUS_FREE = ("in_batch",)
"""Samplers that keep no row and ask for no item beyond the batch."""

WITH_PARTITION = ("cached", "distinct", "head_tail")
"""Samplers whose draws carry an estimate of the partition, unless they are pooled."""

USED_BY = {
    "power": ("cached", "mixture"),
    "scored": ("cached", "mixture"),
    "uniform": ("mixture",),
    "head": ("head_tail",),
}
"""Keys that some samplers use; elsewhere a value is refused, since it would do nothing."""
