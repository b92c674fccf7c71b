"""negcache: softmax training over very large item sets."""

from negcache.cache import DenseCache, LiveTable, SubsetCache
from negcache.data.known_positives import KnownPositives
from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.functional.estimators import corrected, pinned, softmax_loss
from negcache.head import SoftmaxHead
from negcache.losses import SoftmaxLoss
from negcache.protocols import Batch, Draw, Request, StepReport
from negcache.samplers import (
    CachedDistinct,
    CachedRest,
    CachedSoftmax,
    ExactKernel,
    FullSoftmax,
    Given,
    HeadTail,
    InBatch,
    KernelSoftmax,
    Mixture,
    Popularity,
    SharedDraws,
    Uniform,
    log_uniform,
    quadratic,
    rf_softmax,
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
    "ExactKernel",
    "Exclusion",
    "FullSoftmax",
    "Given",
    "HeadTail",
    "IdTable",
    "InBatch",
    "InputError",
    "KernelSoftmax",
    "KnownPositives",
    "LiveTable",
    "Mixture",
    "Popularity",
    "Request",
    "SharedDraws",
    "SoftmaxHead",
    "SoftmaxLoss",
    "StaticTower",
    "StepReport",
    "SubsetCache",
    "Uniform",
    "corrected",
    "log_uniform",
    "pinned",
    "quadratic",
    "rf_softmax",
    "softmax_loss",
]
