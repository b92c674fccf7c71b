"""A small training loop: one typed config, one readable step, checkpoints that lose nothing."""

from negcache.run.training.checkpoint import Checkpoints
from negcache.run.training.config import Config, load_config
from negcache.run.training.trainer import Parts, Trainer

__all__ = ["Checkpoints", "Config", "Parts", "Trainer", "load_config"]
