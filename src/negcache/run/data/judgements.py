"""Which item answers which query, and how well."""

from dataclasses import dataclass

from negcache.errors import InputError
from negcache.shapes import Int, Tensor


@dataclass(frozen=True, eq=False)
class Judgements:
    """Graded (query, item) pairs, by row of the query and item tables.

    Args:
        queries: rows of the queries, int64 [P].
        items: rows of the items, int64 [P].
        grades: int64 [P]; above 0 the item is a positive of the query.
    """

    queries: Int[Tensor, "_"]
    items: Int[Tensor, "_"]
    grades: Int[Tensor, "_"]

    def __post_init__(self) -> None:
        sizes = len(self.queries), len(self.items), len(self.grades)
        if len(set(sizes)) > 1:
            raise InputError(
                "as many queries as items and grades",
                "{}, {} and {}".format(*sizes),
                "give one grade for each pair",
            )

    def __len__(self) -> int:
        return len(self.queries)

    def positives(self) -> "Judgements":
        """The pairs with a grade above 0."""
        return self.only(self.grades > 0)

    def only(self, keep: Tensor) -> "Judgements":
        """The pairs where ``keep``, bool [P], is true."""
        return Judgements(self.queries[keep], self.items[keep], self.grades[keep])
