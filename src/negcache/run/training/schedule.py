"""The learning rate of every optimizer step, by torch's own schedulers."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)

from negcache.run.training.config_tables import ScheduleConfig


def make_scheduler(optimizer: Optimizer, schedule: ScheduleConfig, steps: int) -> LRScheduler:
    """A scheduler to step once after every optimizer step that was made.

    Args:
        optimizer: its learning rate is the one that the schedule scales; it is set for step 1.
        schedule: step k of a warmup of w steps takes k / (w + 1) of the rate, step w + 1 all of it.
        steps: optimizer steps in all, warmup included; linear and cosine are at 0 after the last.
    """
    warmup = schedule.warmup_steps
    if not warmup:
        return _main(optimizer, schedule.name, steps)
    rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    main = _main(optimizer, schedule.name, steps - warmup)
    return SequentialLR(optimizer, [rise, main], milestones=[warmup])


def _main(optimizer: Optimizer, name: str, steps: int) -> LRScheduler:
    """What follows the warmup, over ``steps`` steps."""
    match name:
        case "linear":
            return LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps)
        case "cosine":
            return CosineAnnealingLR(optimizer, T_max=steps)
        case _:
            return ConstantLR(optimizer, factor=1.0, total_iters=0)
