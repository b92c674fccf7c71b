"""Rules that propose negatives. ``uniform.py`` is the one to copy."""

from negcache.samplers.auto import Auto
from negcache.samplers.cached import CachedSoftmax
from negcache.samplers.chain import DynamicIndexChain
from negcache.samplers.combinators import Mixture, Resampled, SharedDraws
from negcache.samplers.distinct import CachedDistinct, HeadTail
from negcache.samplers.dynamic_index import DynamicIndex
from negcache.samplers.full import FullSoftmax
from negcache.samplers.given import Given
from negcache.samplers.in_batch import InBatch
from negcache.samplers.kernel import KernelSoftmax, quadratic, rf_softmax
from negcache.samplers.kernel_exact import ExactKernel
from negcache.samplers.popularity import Popularity, log_uniform
from negcache.samplers.rejection import DynamicIndexRejection
from negcache.samplers.rest import CachedRest
from negcache.samplers.stale_ann import StaleTopK
from negcache.samplers.uniform import Uniform

__all__ = [
    "Auto",
    "CachedDistinct",
    "CachedRest",
    "CachedSoftmax",
    "DynamicIndex",
    "DynamicIndexChain",
    "DynamicIndexRejection",
    "ExactKernel",
    "FullSoftmax",
    "Given",
    "HeadTail",
    "InBatch",
    "KernelSoftmax",
    "Mixture",
    "Popularity",
    "Resampled",
    "SharedDraws",
    "StaleTopK",
    "Uniform",
    "log_uniform",
    "quadratic",
    "rf_softmax",
]
