"""negcache: softmax training over very large item sets."""

from negcache.cache import DenseCache, LiveTable, LowRankCache, SnapshotCache, SubsetCache
from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.functional.estimators import corrected, pinned, softmax_loss
from negcache.head import SoftmaxHead
from negcache.known_positives import KnownPositives
from negcache.losses import SoftmaxLoss
from negcache.protocols import Batch, Draw, Request, StepReport
from negcache.samplers import (
    CachedDistinct,
    CachedRest,
    CachedSoftmax,
    DynamicIndex,
    DynamicIndexChain,
    DynamicIndexMiner,
    DynamicIndexRejection,
    DynamicIndexTree,
    ExactKernel,
    FullSoftmax,
    Given,
    HeadTail,
    InBatch,
    KernelSoftmax,
    Mixture,
    Popularity,
    Resampled,
    SharedDraws,
    StaleTopK,
    Uniform,
    as_printed,
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
    "DynamicIndex",
    "DynamicIndexChain",
    "DynamicIndexMiner",
    "DynamicIndexRejection",
    "DynamicIndexTree",
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
    "LowRankCache",
    "Mixture",
    "Popularity",
    "Request",
    "Resampled",
    "SharedDraws",
    "SnapshotCache",
    "SoftmaxHead",
    "SoftmaxLoss",
    "StaleTopK",
    "StaticTower",
    "StepReport",
    "SubsetCache",
    "Uniform",
    "as_printed",
    "corrected",
    "log_uniform",
    "pinned",
    "quadratic",
    "rf_softmax",
    "softmax_loss",
]
