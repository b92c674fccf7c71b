"""Rules that propose negatives. ``uniform.py`` is the one to copy."""

from negcache.samplers.cached import CachedSoftmax
from negcache.samplers.cached_rest import CachedRest
from negcache.samplers.distinct import CachedDistinct
from negcache.samplers.full import FullSoftmax
from negcache.samplers.given import Given
from negcache.samplers.head_tail import HeadTail
from negcache.samplers.in_batch import InBatch
from negcache.samplers.kernel import KernelSoftmax, quadratic, rf_softmax
from negcache.samplers.kernel_exact import ExactKernel
from negcache.samplers.mixture import Mixture
from negcache.samplers.popularity import Popularity, log_uniform
from negcache.samplers.shared import SharedDraws
from negcache.samplers.uniform import Uniform

__all__ = [
    "CachedDistinct",
    "CachedRest",
    "CachedSoftmax",
    "ExactKernel",
    "FullSoftmax",
    "Given",
    "HeadTail",
    "InBatch",
    "KernelSoftmax",
    "Mixture",
    "Popularity",
    "SharedDraws",
    "Uniform",
    "log_uniform",
    "quadratic",
    "rf_softmax",
]
