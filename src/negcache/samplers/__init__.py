"""Rules that propose negatives. ``uniform.py`` is the one to copy."""

from negcache.samplers.cached import CachedSoftmax
from negcache.samplers.full import FullSoftmax
from negcache.samplers.given import Given
from negcache.samplers.in_batch import InBatch
from negcache.samplers.shared import SharedDraws
from negcache.samplers.uniform import Uniform

__all__ = ["CachedSoftmax", "FullSoftmax", "Given", "InBatch", "SharedDraws", "Uniform"]
