"""The interfaces of the house, and the plain data that travels between its rooms.

A **cache** remembers what items looked like; a **sampler** proposes items and says how much
each one stands for; an **estimator** turns fresh scores and those weights into the terms of a
softmax; a **schedule** says what to look at again.

Protocols are structural: a class belongs to one by having its methods, never by inheriting.
"""

from negcache.protocols.messages import Batch, Change, Draw, Law, Request, Rest, StepReport
from negcache.protocols.rooms import (
    Cache,
    Coordinates,
    Corpus,
    DensitySampler,
    Estimator,
    Known,
    Listener,
    Reencoder,
    Rows,
    Sampler,
)
from negcache.protocols.score import Score

__all__ = [
    "Batch",
    "Cache",
    "Change",
    "Coordinates",
    "Corpus",
    "DensitySampler",
    "Draw",
    "Estimator",
    "Known",
    "Law",
    "Listener",
    "Reencoder",
    "Request",
    "Rest",
    "Rows",
    "Sampler",
    "Score",
    "StepReport",
]
