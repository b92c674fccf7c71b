"""All items of a stream, which no corpus has at hand: ids, and features in a pass over them."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch

from negcache.errors import InputError
from negcache.shapes import Int, Tensor
from negcache.stores.arrivals import last_of_each
from negcache.stores.feature_rows import Features, form_of, from_rows, some, to_rows

AT_ONCE = 1 << 14
"""Items of a pass that are handed over together."""


@runtime_checkable
class StreamItems(Protocol):
    """All items of a stream, by the ids that they come with."""

    @property
    def ids(self) -> Int[Tensor, "N"]:
        """Distinct, ascending; every item among them that pairs and cache have."""
        ...

    def read(self, ids: Int[Tensor, "M"], /) -> Iterator[tuple[Int[Tensor, "c"], Any]]:
        """These items and their features, some at a time, each once, in any order.

        Those that have no features, such as an empty text, are left out.
        """
        ...


class ItemsInMemory:
    """All items of a stream as tensors; a corpus of them too.

    Args:
        ids: [M], as ``cache.receive`` takes them; of an item that is there again the last counts.
        features: of each, row by row.

    Raises:
        InputError: not a row for each id.

    Examples:
        >>> items = ItemsInMemory(torch.tensor([2**60, 7]), torch.tensor([[1.0], [2.0]]))
        >>> items.ids.tolist(), items[torch.tensor([2**60])].tolist()
        ([7, 1152921504606846976], [[1.0]])
    """

    def __init__(self, ids: Int[Tensor, "M"], features: Features) -> None:
        rows, self.form = to_rows(features), form_of(features)
        wrong = {name: len(each) for name, each in rows.items() if len(each) != len(ids)}
        if wrong or not len(ids):
            raise InputError(
                f"items, and a row of features for each of {len(ids)} ids", f"{wrong}", "pass both"
            )
        ids = ids.cpu()
        last = last_of_each(ids)
        last = last[ids[last].argsort()]
        self.ids, self.rows = ids[last], some(rows, last)

    def __len__(self) -> int:
        """Of distinct items."""
        return len(self.ids)

    @property
    def some_id(self) -> int:
        """Its features are here."""
        return int(self.ids[0])

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> Features:
        place = torch.searchsorted(self.ids, ids.cpu().contiguous()).clamp_(max=len(self) - 1)
        if not bool((self.ids[place] == ids.cpu()).all()):
            raise InputError("items that are here", "others", "pass them with their features")
        return from_rows(some(self.rows, place), self.form)

    def read(self, ids: Int[Tensor, "M"], /) -> Iterator[tuple[Int[Tensor, "c"], Features]]:
        """These items and their features, some at a time."""
        for part in ids.split(AT_ONCE):
            yield part, self[part]
