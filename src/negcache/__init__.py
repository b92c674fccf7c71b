"""negcache: softmax training over very large item sets.

What most programs need is here; the rest is in ``negcache.samplers``, ``.stores``, ``.indexes``,
``.towers``, ``.testing`` and ``.contrib``.
"""

from negcache import samplers as samplers
from negcache import stores as stores
from negcache import towers as towers
from negcache.clipping import clip_grad_norm_
from negcache.errors import InputError
from negcache.estimators import cached_partition, log_q_corrected
from negcache.head import SoftmaxHead
from negcache.known_positives import KnownPositives, PositivesById
from negcache.losses import SoftmaxLoss
from negcache.retriever import Retriever
from negcache.samplers import (
    CachedRest,
    CachedSoftmax,
    DynamicIndex,
    FullSoftmax,
    InBatch,
    Mixture,
    Popularity,
    Resampled,
    SharedDraws,
    Uniform,
    quadratic,
    rf_softmax,
)
from negcache.score import DotScore
from negcache.stores import DenseCache, LiveTable, LowRankCache, StreamingCache, SubsetCache

__all__ = [
    "CachedRest",
    "CachedSoftmax",
    "DenseCache",
    "DotScore",
    "DynamicIndex",
    "FullSoftmax",
    "InBatch",
    "InputError",
    "KnownPositives",
    "LiveTable",
    "LowRankCache",
    "Mixture",
    "Popularity",
    "PositivesById",
    "Resampled",
    "Retriever",
    "SharedDraws",
    "SoftmaxHead",
    "SoftmaxLoss",
    "StreamingCache",
    "SubsetCache",
    "Uniform",
    "cached_partition",
    "clip_grad_norm_",
    "log_q_corrected",
    "quadratic",
    "rf_softmax",
]
