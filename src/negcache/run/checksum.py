"""What a file holds, as hex digits: against people, and, many times as fast, against accidents."""

import hashlib
from pathlib import Path

import xxhash


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def xxh128_of(path: Path) -> str:
    """The 128 bits of XXH3 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()
