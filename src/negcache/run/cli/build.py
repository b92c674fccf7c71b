"""From a config and its data to everything a run trains."""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from negcache.estimators import cached_partition, log_q_corrected
from negcache.losses import SoftmaxLoss
from negcache.run.cli.retriever import Retriever
from negcache.run.cli.sampling import build_sampler
from negcache.run.cli.sources import Source
from negcache.run.cli.towers import Towers, make_towers
from negcache.run.training import Config, Parts
from negcache.run.training.config_tables import OptimizerConfig, ScoreConfig
from negcache.run.training.schedule import make_scheduler
from negcache.score import DotScore

ESTIMATORS = {"log_q_corrected": log_q_corrected, "cached_partition": cached_partition}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def build(
    config: Config,
    source: Source,
    accelerator: Accelerator,
    rows: Path | None = None,
    *,
    trains: bool = True,
) -> tuple[Parts, Towers, Retriever | None]:
    """Everything a run trains, and its towers over the task that measures it, if there is one.

    Args:
        config: of the run.
        source: its data, open.
        accelerator: says where the parts live.
        rows: file of the cache's rows; None: they are in memory.
        trains: whether its loss is wanted, which asks for known positives.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = accelerator.device
    score = _score(config.score).to(device)
    towers = make_towers(config, source.tokenizer)
    for tower in (towers.query_tower, towers.item_tower):
        tower.to(device)
    sampler = build_sampler(source.sampler_inputs(towers.dim, device)._replace(rows=rows))
    loss_fn = SoftmaxLoss(
        towers.item_tower,
        source.corpus(towers, sampler),
        sampler,
        score,
        estimator=ESTIMATORS[config.sampler.estimator],
        known_positives=source.known() if trains else None,
        mini_batch_size=config.tower.mini_batch_size or None,
        seed=config.seed,
    )
    optimizer = _optimizer(config.optimizer, towers.query_tower, loss_fn)
    retriever = None if source.task is None else Retriever.of(source.task, towers, score)
    parts = Parts(
        data=source.training(towers),
        query_tower=towers.query_tower,
        loss_fn=loss_fn,
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, config.schedule, config.steps),
        evaluate=None if retriever is None else retriever.dev,
    )
    return parts, towers, retriever


def _score(keys: ScoreConfig) -> DotScore:
    return DotScore(
        keys.temperature, learn_temperature=keys.learn_temperature, normalize=keys.normalize
    )


def _optimizer(config: OptimizerConfig, *modules: nn.Module) -> torch.optim.Optimizer:
    """Over each parameter once, also where modules share it."""
    parameters = dict.fromkeys(p for module in modules for p in module.parameters())
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    return OPTIMIZERS[config.name](
        wanted, lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
