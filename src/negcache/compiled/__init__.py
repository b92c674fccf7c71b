"""Compiled inner loops, each behind a reference twin that gives the same result.

Nothing here is imported by ``import negcache``: the compiler is an optional library.
"""
