"""What items looked like when they were last encoded."""

from negcache.cache.dense import DenseCache
from negcache.cache.live import LiveTable
from negcache.cache.low_rank import LowRankCache
from negcache.cache.snapshot import SnapshotCache
from negcache.cache.subset import SubsetCache

__all__ = ["DenseCache", "LiveTable", "LowRankCache", "SnapshotCache", "SubsetCache"]
