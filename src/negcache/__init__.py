"""negcache: softmax training over very large item sets."""

from negcache.cache import DenseCache, SubsetCache
from negcache.data.known_positives import KnownPositives
from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.functional.estimators import corrected, pinned, softmax_loss
from negcache.losses import SoftmaxLoss
from negcache.protocols import Batch, Draw, Request, StepReport
from negcache.samplers import (
    CachedDistinct,
    CachedRest,
    CachedSoftmax,
    FullSoftmax,
    Given,
    HeadTail,
    InBatch,
    Mixture,
    Popularity,
    SharedDraws,
    Uniform,
)
from negcache.score import DotScore
from negcache.towers import Bags, IdTable, StaticTower

__all__ = [
    "Bags",
    "Batch",
    "CachedDistinct",
    "CachedRest",
    "CachedSoftmax",
    "DenseCache",
    "DotScore",
    "Draw",
    "Exclusion",
    "FullSoftmax",
    "Given",
    "HeadTail",
    "IdTable",
    "InBatch",
    "InputError",
    "KnownPositives",
    "Mixture",
    "Popularity",
    "Request",
    "SharedDraws",
    "SoftmaxLoss",
    "StaticTower",
    "StepReport",
    "SubsetCache",
    "Uniform",
    "corrected",
    "pinned",
    "softmax_loss",
]
