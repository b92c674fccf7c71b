"""Ragged texts as tensors: what a token file gives and a text tower takes."""

from negcache.towers import Bags

__all__ = ["Bags"]
