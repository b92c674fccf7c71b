"""From the words of a config to classes: the only place where "uniform" becomes ``Uniform``."""

import difflib
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import nn

from negcache.cache import DenseCache
from negcache.cli.retriever import Retriever
from negcache.data import Task, open_task
from negcache.errors import InputError
from negcache.functional.estimators import corrected, pinned
from negcache.losses import SoftmaxLoss
from negcache.protocols import Sampler
from negcache.samplers import CachedSoftmax, FullSoftmax, InBatch, SharedDraws, Uniform
from negcache.score import DotScore
from negcache.towers import StaticTower
from negcache.training import Config, Parts
from negcache.training.config import CacheConfig, OptimizerConfig, SamplerConfig

ESTIMATORS = {"corrected": corrected, "pinned": pinned}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def build_task(config: Config) -> Task:
    """Open the data of a run."""
    data = config.data
    return open_task(
        data.source, max_tokens=data.max_tokens, vocab_size=data.vocab_size, strict=data.strict
    )


def build(config: Config, task: Task, accelerator: Accelerator) -> tuple[Parts, Retriever]:
    """Everything a run trains, from its config and its data.

    Args:
        config: of the run.
        task: its data, open.
        accelerator: says where the parts live.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = accelerator.device
    query_tower = _tower(config, task).to(device)
    item_tower = query_tower if config.tower.shared else _tower(config, task).to(device)
    score = DotScore(
        config.score.temperature,
        learn_temperature=config.score.learn_temperature,
        normalize=config.score.normalize,
    ).to(device)
    retriever = Retriever(task, query_tower, item_tower, score, config.data.max_tokens)
    loss_fn = _loss(config, task, retriever, device)
    train = task.learnable("train")
    parts = Parts(
        queries=task.queries,
        pairs=(train.queries, train.items),
        query_tower=query_tower,
        loss_fn=loss_fn,
        optimizer=_optimizer(config.optimizer, query_tower, loss_fn),
        fingerprint=task.fingerprint,
        evaluate=(lambda: retriever.evaluate("dev").means) if "dev" in task.splits else None,
    )
    return parts, retriever


def _tower(config: Config, task: Task) -> nn.Module:
    return StaticTower(task.vocab_size, config.tower.dim, config.tower.width)


def _optimizer(config: OptimizerConfig, *modules: nn.Module) -> torch.optim.Optimizer:
    """Over each parameter once, also where modules share it."""
    parameters = dict.fromkeys(p for module in modules for p in module.parameters())
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    return OPTIMIZERS[config.name](
        wanted, lr=config.lr, weight_decay=config.weight_decay, fused=True
    )


def _loss(config: Config, task: Task, retriever: Retriever, device: torch.device) -> SoftmaxLoss:
    """The loss with its sampler and, where the sampler reads one, its cache."""
    if config.sampler.estimator == "pinned" and _is_pooled(config.sampler):
        raise InputError(
            'estimator "pinned" with sampler.name "cached" and sampler.shared false',
            f'"{config.sampler.name}", shared {config.sampler.shared}'.lower(),
            'set sampler.estimator to "corrected"',
        )
    return SoftmaxLoss(
        retriever.item_tower,
        task.corpus,
        _sampler(config, task, device),
        retriever.score,
        estimator=ESTIMATORS[config.sampler.estimator],
        known_positives=task.known_positives("train"),
        seed=config.seed,
    )


def _is_pooled(config: SamplerConfig) -> bool:
    return config.name != "cached" or config.shared


def _cache(config: CacheConfig, num_items: int, dim: int, device: torch.device) -> DenseCache:
    rho = config.rho
    if config.refresh_rows is not None:
        if config.refresh_rows > num_items:
            raise InputError(
                f"cache.refresh_rows of at most the {num_items} items",
                f"{config.refresh_rows}",
                "refresh fewer rows",
            )
        rho = config.refresh_rows / num_items
    dtype: torch.dtype = getattr(torch, config.dtype)
    return DenseCache(num_items, dim, rho=rho, dtype=dtype, device=device)


def _sampler(config: Config, task: Task, device: torch.device) -> Sampler:
    """The word becomes a class."""
    word = config.sampler.name
    if word not in SAMPLERS:
        *others, last = map(repr, SAMPLERS)
        raise InputError(
            f"config key sampler.name to be {', '.join(others)} or {last}",
            repr(word),
            f"use {difflib.get_close_matches(word, SAMPLERS, n=1, cutoff=0.0)[0]!r}, the nearest",
        )
    return SAMPLERS[word](config, task, device)


def _cached(config: Config, task: Task, device: torch.device) -> Sampler:
    cache = _cache(config.cache, len(task.corpus), config.tower.dim, device)
    return _shared(config, CachedSoftmax(cache, config.sampler.num_negatives))


def _uniform(config: Config, task: Task, device: torch.device) -> Sampler:
    return _shared(config, Uniform(task.corpus, config.sampler.num_negatives))


def _in_batch(config: Config, task: Task, device: torch.device) -> Sampler:
    counts = torch.bincount(task.learnable("train").items, minlength=len(task.corpus))
    return InBatch((counts / counts.sum()).log().to(device))


def _full(config: Config, task: Task, device: torch.device) -> Sampler:
    return FullSoftmax(task.corpus)


def _shared(config: Config, sampler: Sampler) -> Sampler:
    return SharedDraws(sampler) if config.sampler.shared else sampler


SAMPLERS: dict[str, Callable[[Config, Task, torch.device], Sampler]] = {
    "cached": _cached,
    "uniform": _uniform,
    "in_batch": _in_batch,
    "full": _full,
}
"""The words of ``sampler.name``; a new sampler adds one."""
