"""How closely a diagnosis looks, and what else it is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from negcache.diagnosis.stream_items import StreamItems
from negcache.errors import InputError
from negcache.interfaces import Estimator, Known, Sampler
from negcache.shapes import Int, Tensor

OWN = "own"
"""The name of the loss' sampler, where nobody gives it another."""


@dataclass(frozen=True)
class Settings:
    """How closely it is looked.

    Args:
        repeats: draws for each batch.
        batch_size: queries that share a draw, as in training; None: all of them.
        items: that stand for all, drawn uniformly beside the positives and what one draw of every
            sampler names; None: all do.
        seed: of the draws, which have a generator of their own.
        advise: measure variants of the loss' sampler too, and say what they would bring.
    """

    repeats: int = 32
    batch_size: int | None = None
    items: int | None = None
    seed: int = 0
    advise: bool = True

    def __post_init__(self) -> None:
        if self.repeats < 4:
            raise InputError(
                "4 repeats or more", f"{self.repeats}", "32 tell a bias of a fifth of the noise"
            )


@dataclass(frozen=True)
class Beside:
    """What else is known.

    Args:
        samplers: to be compared, by name, over stores that are filled.
        estimators: theirs, where it is not ``log_q_corrected``, by the same name.
        partners: target items of training pairs [P]: negatives that stand in the batch come from
            them, new ones at each repeat; None: the batch's own targets do, and what another batch
            would change counts as bias.
        suspects: items that are no true negatives of a query though it may draw them, such as its
            positives in other splits; tables over ``query_ids``.
        own: what the loss' own sampler is called.
        items: all items of a stream, where the loss has only those that came last; such as
            `ItemsInMemory`.
        recent: distinct items of a stream by when they came last, the newest first [R], as far back
            as is known; None: it is not, and no larger cache is spoken of.
    """

    samplers: Mapping[str, Sampler] = field(default_factory=dict)
    estimators: Mapping[str, Estimator] = field(default_factory=dict)
    partners: Int[Tensor, "P"] | None = None
    suspects: Mapping[str, Known] = field(default_factory=dict)
    own: str = OWN
    items: StreamItems | None = None
    recent: Int[Tensor, "R"] | None = None
