"""negcache: softmax training over very large item sets."""

from negcache.cache import DenseCache
from negcache.data.known_positives import KnownPositives
from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.functional.estimators import corrected, pinned, softmax_loss
from negcache.losses import SoftmaxLoss
from negcache.protocols import Batch, Draw, Request, StepReport
from negcache.samplers import CachedSoftmax, FullSoftmax, Given, InBatch, SharedDraws, Uniform
from negcache.score import DotScore
from negcache.towers import Bags, IdTable, StaticTower

__all__ = [
    "Bags",
    "Batch",
    "CachedSoftmax",
    "DenseCache",
    "DotScore",
    "Draw",
    "Exclusion",
    "FullSoftmax",
    "Given",
    "IdTable",
    "InBatch",
    "InputError",
    "KnownPositives",
    "Request",
    "SharedDraws",
    "SoftmaxLoss",
    "StaticTower",
    "StepReport",
    "Uniform",
    "corrected",
    "pinned",
    "softmax_loss",
]
