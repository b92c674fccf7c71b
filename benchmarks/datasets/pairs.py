"""From natural pairs (a text, the text it goes with) to a task with queries and items."""

from collections.abc import Iterable

from negcache.run.data.tables import Rows, digest, stable_split


def rows_of_pairs(pairs: Iterable[tuple[str, str, str]]) -> Rows:
    """Distinct texts become items, distinct queries are split 80/10/10 by their own hash.

    Args:
        pairs: (item id, query text, item text); an item text keeps the first id it came with.
    """
    items: dict[str, str] = {}
    queries: dict[str, str] = {}
    judged: dict[str, dict[tuple[str, str], None]] = {"train": {}, "dev": {}, "test": {}}
    for key, query, text in pairs:
        item = items.setdefault(text, key)
        asked = queries.setdefault(query, digest(query))
        judged[stable_split(query)][asked, item] = None
    return Rows(
        corpus=[(key, text) for text, key in items.items()],
        queries=[(key, text) for text, key in queries.items()],
        judged={split: list(found) for split, found in judged.items()},
    )
