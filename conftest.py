"""Doctests read every file of the library, but for what asks for a compiler that is not there."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") else ["src/negcache/compiled/triton_masses.py"]
