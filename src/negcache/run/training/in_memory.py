"""Training pairs that are all at hand, by row of a task."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from negcache.distributed import ALONE, Mesh
from negcache.interfaces import Corpus
from negcache.messages import Batch
from negcache.run.training.order import Order
from negcache.shapes import Int, Tensor


@dataclass(frozen=True)
class PairsInMemory:
    """Shuffled pairs; the ``TrainingData`` of a task.

    Args:
        queries: features of the queries by row.
        pairs: (query rows, item ids).
        batch_size: pairs of the global batch.
        seed: of the shuffles.
        fingerprints: of the data, by config key.
        negatives: the user's own of every query, [Q, h] item ids padded with -1.
        mesh: the processes that share each batch.
    """

    queries: Corpus
    pairs: tuple[Int[Tensor, "P"], Int[Tensor, "P"]]
    batch_size: int
    seed: int
    fingerprints: dict[str, str]
    negatives: Int[Tensor, "Q h"] | None = None
    mesh: Mesh = ALONE
    order: Order = field(init=False)

    def __post_init__(self) -> None:
        order = Order(len(self.pairs[0]), self.batch_size, self.seed)
        object.__setattr__(self, "order", order)

    def place(self, number: int) -> tuple[int, int]:
        """(epoch, batch within the epoch) of the batch ``number``, counted from 0."""
        return self.order.place(number)

    @contextmanager
    def begin(self, number: int, stop: int) -> Iterator[Iterator[Batch]]:
        """This process' part of the batches from ``number`` to before ``stop``."""
        part = self.mesh.part(self.batch_size)
        yield (self.batch(self.order.batch(each)[part]) for each in range(number, stop))

    def batch(self, numbers: Int[Tensor, "B"]) -> Batch:
        """The training pairs with these numbers."""
        queries, items = (side[numbers] for side in self.pairs)
        own = None if self.negatives is None else self.negatives[queries]
        return Batch(self.queries[queries], items, queries, own)
