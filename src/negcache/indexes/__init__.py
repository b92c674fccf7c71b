"""Structures over vectors that move, and the exact one they are measured against."""

from negcache.indexes.exact import better, better_of, nothing_yet, top_k

__all__ = ["better", "better_of", "nothing_yet", "top_k"]
