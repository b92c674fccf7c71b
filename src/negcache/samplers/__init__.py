"""Rules that propose negatives. ``uniform.py`` is the one to copy."""

from negcache.samplers.cached import CachedSoftmax
from negcache.samplers.cached_rest import CachedRest
from negcache.samplers.distinct import CachedDistinct
from negcache.samplers.full import FullSoftmax
from negcache.samplers.given import Given
from negcache.samplers.head_tail import HeadTail
from negcache.samplers.in_batch import InBatch
from negcache.samplers.mixture import Mixture
from negcache.samplers.popularity import Popularity
from negcache.samplers.shared import SharedDraws
from negcache.samplers.uniform import Uniform

__all__ = [
    "CachedDistinct",
    "CachedRest",
    "CachedSoftmax",
    "FullSoftmax",
    "Given",
    "HeadTail",
    "InBatch",
    "Mixture",
    "Popularity",
    "SharedDraws",
    "Uniform",
]
