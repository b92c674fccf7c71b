"""Structures over vectors that move, and the exact one they are measured against."""

from negcache.indexes.exact import top_k

__all__ = ["top_k"]
