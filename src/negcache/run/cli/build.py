"""From a config to everything a run trains; ``sampling.py`` has the words of samplers."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from negcache.errors import InputError
from negcache.estimators import cached_partition, log_q_corrected
from negcache.interfaces import Corpus
from negcache.losses import SoftmaxLoss
from negcache.run.cli.retriever import Retriever
from negcache.run.cli.sampling import build_sampler
from negcache.run.data import Task, open_task
from negcache.run.data.mined import read_mined_negatives
from negcache.run.training import Config, Parts
from negcache.run.training.config import OptimizerConfig
from negcache.run.training.schedule import make_scheduler
from negcache.score import DotScore
from negcache.shapes import Tensor
from negcache.towers import Bags, StaticTower

ESTIMATORS = {"log_q_corrected": log_q_corrected, "cached_partition": cached_partition}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def build_task(config: Config) -> Task:
    """Open the data of a run; a tower that cannot be read is refused before."""
    if config.tower.kind == "transformer":
        _transformer_tower().check_folder(str(config.tower.folder), config.tower.pooling)
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
    score = DotScore(
        config.score.temperature,
        learn_temperature=config.score.learn_temperature,
        normalize=config.score.normalize,
    ).to(device)
    negatives = _negatives(config, task)
    pair = TOWERS[config.tower.kind](config, task)
    for tower in (pair.query_tower, pair.item_tower):
        tower.to(device)
    retriever = Retriever(
        task, pair.query_tower, pair.item_tower, score, pair.queries, pair.items, pair.read
    )
    loss_fn = _loss(config, retriever, pair.dim, device)
    optimizer = _optimizer(config.optimizer, pair.query_tower, loss_fn)
    train = task.learnable("train")
    parts = Parts(
        queries=pair.queries,
        pairs=(train.queries, train.items),
        query_tower=pair.query_tower,
        loss_fn=loss_fn,
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, config.schedule, config.steps),
        fingerprint=_fingerprint(task, negatives),
        evaluate=(lambda: retriever.evaluate("dev").means) if "dev" in task.splits else None,
        negatives=negatives,
    )
    return parts, retriever


class TowerPair(NamedTuple):
    """Two towers, what they read by row of the task, and how a text becomes what they read."""

    query_tower: nn.Module
    item_tower: nn.Module
    queries: Corpus
    items: Corpus
    read: Callable[[str], Any]
    dim: int


def _static(config: Config, task: Task) -> TowerPair:
    def make() -> StaticTower:
        return StaticTower(task.vocab_size, config.tower.dim, config.tower.width)

    def read(text: str) -> Bags:
        ids = task.tokenizer.encode(text, add_special_tokens=False).ids[: config.data.max_tokens]
        return Bags(torch.tensor(ids, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))

    query_tower = make()
    item_tower = query_tower if config.tower.shared else make()
    return TowerPair(query_tower, item_tower, task.queries, task.corpus, read, config.tower.dim)


def _transformer(config: Config, task: Task) -> TowerPair:
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
    queries = TextCorpus(task.query_text, query_tower, prompt=keys.query_prompt)
    items = TextCorpus(task.corpus_text, item_tower, prompt=keys.item_prompt)
    return TowerPair(
        query_tower, item_tower, queries, items, lambda text: queries.tokens([text]), item_tower.dim
    )


TOWERS: dict[str, Callable[[Config, Task], TowerPair]] = {
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


def _negatives(config: Config, task: Task) -> Tensor | None:
    """The mined negatives of every query, if there is a file of them."""
    data = config.data
    if data.negatives is None:
        return None
    most = data.negatives_per_query
    return read_mined_negatives(data.negatives, task, most=most, strict=data.strict)[0]


def _fingerprint(task: Task, negatives: Tensor | None) -> str:
    """Names all that a run learns from."""
    if negatives is None:
        return task.fingerprint
    return hashlib.sha256(task.fingerprint.encode() + negatives.numpy().tobytes()).hexdigest()


def _optimizer(config: OptimizerConfig, *modules: nn.Module) -> torch.optim.Optimizer:
    """Over each parameter once, also where modules share it."""
    parameters = dict.fromkeys(p for module in modules for p in module.parameters())
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    return OPTIMIZERS[config.name](
        wanted, lr=config.lr, weight_decay=config.weight_decay, fused=True
    )


def _loss(config: Config, retriever: Retriever, dim: int, device: torch.device) -> SoftmaxLoss:
    """The loss with its sampler and, where the sampler reads one, its cache."""
    return SoftmaxLoss(
        retriever.item_tower,
        retriever.items,
        build_sampler(config, retriever.task, dim, device),
        retriever.score,
        estimator=ESTIMATORS[config.sampler.estimator],
        known_positives=retriever.task.known_positives("train"),
        mini_batch_size=config.tower.mini_batch_size or None,
        seed=config.seed,
    )
