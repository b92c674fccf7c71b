"""What items looked like when they were last encoded, and when to look at them again."""

from negcache.stores.dense import DenseCache
from negcache.stores.live import LiveTable
from negcache.stores.low_rank import LowRankCache
from negcache.stores.reencoders import Corrector, Identity, Ridge
from negcache.stores.refresh import Oldest, Snapshot
from negcache.stores.side_by_side import SideBySide
from negcache.stores.streaming import StreamingCache
from negcache.stores.subset import SubsetCache

__all__ = [
    "Corrector",
    "DenseCache",
    "Identity",
    "LiveTable",
    "LowRankCache",
    "Oldest",
    "Ridge",
    "SideBySide",
    "Snapshot",
    "StreamingCache",
    "SubsetCache",
]
