"""The SG tree: nested balls over vectors that move. Needs numba."""

from negcache.indexes.sg_tree.check import check
from negcache.indexes.sg_tree.tree import SGTree
from negcache.indexes.sg_tree.tree_clusters import TreeClusters

__all__ = ["SGTree", "TreeClusters", "check"]
