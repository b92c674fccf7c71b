"""The texts of a corpus, each once, and how to find one by its id or by itself."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, DatasetDict, IterableDatasetDict

from negcache.errors import InputError
from negcache.validation import check_items

ID_COLUMNS = ("_id", "id")
TEXT_TYPES = ("string", "large_string")
SHOWN = 80
"""Letters of a text that an error quotes."""


@dataclass(frozen=True)
class Items:
    """An item id is a place in ``texts``.

    Args:
        texts: each once.
        by_key: item ids by the corpus' own ids; by row where it has none.
        by_text: item ids by text.
    """

    texts: list[str]
    by_key: dict[Any, int]
    by_text: dict[str, int]

    @staticmethod
    def of(corpus: Sequence[str] | Mapping[Any, str] | Dataset) -> "Items":
        """Number the texts of a corpus. Raises InputError."""
        keys, texts = _keyed(corpus)
        strange = [each for each in zip(keys, texts, strict=True) if not isinstance(each[1], str)]
        if strange:
            key, text = strange[0]
            raise InputError(
                "a corpus of texts",
                f"{type(text).__name__} for id {key!r}, and {len(strange) - 1} more",
                "filter these items out, or write them as texts",
            )
        by_text: dict[str, int] = {}
        by_key: dict[Any, int] = {}
        for key, text in zip(keys, texts, strict=True):
            row = by_text.setdefault(text, len(by_text))
            if by_key.setdefault(key, row) != row:
                raise InputError(
                    "one text for each id of the corpus",
                    f"several for {key!r}",
                    "give every text an id of its own, or join those of one id",
                )
        check_items(len(by_text), None)
        return Items(list(by_text), by_key, by_text)

    def rows(self, values: Iterable[Any], column: str) -> list[int]:
        """Item ids of a column of texts, or of ids, whichever more of its values are; -1: None."""
        values = list(values)
        given = [value for value in values if value is not None]
        _check_single(given, column)
        counts = [sum(value in table for value in given) for table in (self.by_key, self.by_text)]
        table = self.by_key if counts[0] >= counts[1] else self.by_text
        if max(counts) < len(given):
            raise self._not_found([value for value in given if value not in table], column)
        if min(counts) == len(given):
            self._check_clear(given, column)
        return [-1 if value is None else table[value] for value in values]

    def _not_found(self, missing: list[Any], column: str) -> InputError:
        key, text = next(iter(self.by_key)), self.texts[0]
        return InputError(
            f"texts or ids of the corpus in column {column!r}",
            f"{_shown(missing[0])}, which is none of its {len(self.texts)} items (ids such as "
            f"{_shown(key)}, texts such as {_shown(text)}), and {len(missing) - 1} more",
            "add them to the corpus, texts word for word and ids in the type that they have "
            "there, or drop these rows or this column",
        )

    def _check_clear(self, given: list[Any], column: str) -> None:
        """All are ids and all are texts: then they name the same items. Raises InputError."""
        for value in given:
            if self.by_key[value] != self.by_text[value]:
                raise InputError(
                    f"column {column!r} as ids of the corpus, or as its texts",
                    f"values that are both, {_shown(value)} first, of two different items",
                    "rename the ids, or pass the corpus as a list of its texts",
                )


def _shown(value: Any) -> str:
    return f"{value[:SHOWN]!r}" if isinstance(value, str) else f"{value!r}"


def _check_single(given: list[Any], column: str) -> None:
    """Lists of items are none. Raises InputError."""
    if several := [value for value in given if not isinstance(value, Hashable)]:
        raise InputError(
            f"one text or id in each row of column {column!r}",
            f"a {type(several[0]).__name__}",
            "write several positives as rows of the same query, several negatives as columns",
        )


def _keyed(corpus: Any) -> tuple[Sequence[Any], list[Any]]:
    """Ids and texts of a corpus of any kind. Raises InputError."""
    if isinstance(corpus, Dataset):
        return _columns_of(corpus)
    if isinstance(corpus, Mapping) and not isinstance(corpus, DatasetDict | IterableDatasetDict):
        return list(corpus), list(corpus.values())
    if isinstance(corpus, str | bytes) or not isinstance(corpus, Sequence):
        raise InputError(
            "a corpus: a list of texts, a mapping from ids to texts, or a Dataset of both",
            type(corpus).__name__,
            "pass list(texts); of a DatasetDict, one of its splits; a stream must be loaded",
        )
    return range(len(corpus)), list(corpus)


def _columns_of(corpus: Dataset) -> tuple[Sequence[Any], list[Any]]:
    """Ids and texts of a corpus that is a data set; other columns that hold no text do no harm."""
    ids = [name for name in corpus.column_names if name in ID_COLUMNS]
    others = [name for name in corpus.column_names if name not in ID_COLUMNS]
    texts = [name for name in others if name == "text" or _holds_text(corpus, name)]
    if len(texts) != 1 or len(ids) > 1:
        raise InputError(
            'a corpus with one column of texts, such as "text", beside the ids in "_id" or "id"',
            f"columns {corpus.column_names}",
            "join title and text into one column, select_columns, rename the column of ids; or "
            "pass a mapping from ids to texts",
        )
    return (corpus[ids[0]][:] if ids else range(len(corpus))), corpus[texts[0]][:]


def _holds_text(corpus: Dataset, name: str) -> bool:
    """Titles that are all empty, as some corpora have, say nothing."""
    return getattr(corpus.features[name], "dtype", None) in TEXT_TYPES and any(corpus[name])
