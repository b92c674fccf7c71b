"""Rules that propose negatives. ``uniform.py`` is the one to copy."""

from negcache.samplers.cached import CachedSoftmax
from negcache.samplers.cached_rest import CachedRest
from negcache.samplers.distinct import CachedDistinct
from negcache.samplers.dynamic_index import DynamicIndex
from negcache.samplers.full import FullSoftmax
from negcache.samplers.given import Given
from negcache.samplers.head_tail import HeadTail
from negcache.samplers.in_batch import InBatch
from negcache.samplers.index_chain import DynamicIndexChain, as_printed
from negcache.samplers.index_mining import DynamicIndexMiner
from negcache.samplers.index_rejection import DynamicIndexRejection
from negcache.samplers.kernel import KernelSoftmax, quadratic, rf_softmax
from negcache.samplers.kernel_exact import ExactKernel
from negcache.samplers.mixture import Mixture
from negcache.samplers.popularity import Popularity, log_uniform
from negcache.samplers.resampled import Resampled
from negcache.samplers.shared import SharedDraws
from negcache.samplers.stale_ann import StaleTopK
from negcache.samplers.tree_rejection import DynamicIndexTree
from negcache.samplers.uniform import Uniform

__all__ = [
    "CachedDistinct",
    "CachedRest",
    "CachedSoftmax",
    "DynamicIndex",
    "DynamicIndexChain",
    "DynamicIndexMiner",
    "DynamicIndexRejection",
    "DynamicIndexTree",
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
    "as_printed",
    "log_uniform",
    "quadratic",
    "rf_softmax",
]
