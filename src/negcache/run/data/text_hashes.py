"""64 bits that name a text, the same on every machine."""

import hashlib
from collections.abc import Sequence

import numpy as np


def hash_texts(texts: Sequence[str]) -> np.ndarray:
    """64 bits of BLAKE2b of each text, uint64 [n]."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8").astype(np.uint64)
