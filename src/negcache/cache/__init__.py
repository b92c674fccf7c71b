"""What items looked like when they were last encoded."""

from negcache.cache.dense import DenseCache

__all__ = ["DenseCache"]
