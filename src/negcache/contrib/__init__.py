"""Methods as printed in a paper, for comparison alone. CONTRIBUTING says what gets in."""

from negcache.contrib.grouped_top_k import GroupedTopK
from negcache.contrib.miner import DynamicIndexMiner
from negcache.contrib.printed import ChainAsPrinted
from negcache.contrib.tree_rejection import DynamicIndexTree

__all__ = ["ChainAsPrinted", "DynamicIndexMiner", "DynamicIndexTree", "GroupedTopK"]
