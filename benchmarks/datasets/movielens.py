"""MovieLens 100K as Parquet: 100,000 ratings of 1,682 films by 943 users.

Source: the sample data inside the wheel of RecBole 1.2.1. The data belongs to GroupLens and is for
research; it may not be passed on without leave, so it is fetched, never shipped.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes most of its functions at import, where a type checker sees none.)

from pathlib import Path
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from benchmarks.datasets.fetching import PYPI, Package, fetch
from negcache.run.atomic import atomic_write
from negcache.run.data.downloads import cache_folder

WHEEL = Package(
    PYPI,
    name="recbole",
    version="1.2.1",
    sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
)
INSIDE = "recbole/dataset_example/ml-100k/ml-100k"


def write_movielens(out: Path, *, cache_dir: Path | None = None) -> Path:
    """Write ``log.parquet``, ``items.parquet`` and ``users.parquet`` for `open_interactions`.

    The log has the columns user, item, time (seconds since 1970) and weight (1 to 5 stars); the
    items title, year and genres (a list); the users age, gender and occupation.

    Args:
        out: a folder; files of these names are replaced.
        cache_dir: where the download is kept; None: the user's cache folder.
    """
    with ZipFile(fetch(WHEEL, cache_folder(cache_dir))) as wheel:
        rated, films, people = (_read(wheel, kind) for kind in ("inter", "item", "user"))
    tables = {
        "log": pa.table(
            {
                "user": rated["user_id:token"],
                "item": rated["item_id:token"],
                "time": rated["timestamp:float"].cast(pa.float64()).cast(pa.int64()),
                "weight": rated["rating:float"].cast(pa.float64()),
            }
        ),
        "items": pa.table(
            {
                "item": films["item_id:token"],
                "title": films["movie_title:token_seq"],
                "year": films["release_year:token"],
                "genres": pc.split_pattern(films["class:token_seq"], " "),
            }
        ),
        "users": pa.table(
            {
                "user": people["user_id:token"],
                **{name: people[f"{name}:token"] for name in ("age", "gender", "occupation")},
            }
        ),
    }
    for name, table in tables.items():
        with atomic_write(out / f"{name}.parquet") as part:
            parquet.write_table(table, part)
    return out


def _read(wheel: ZipFile, kind: str) -> pa.Table:
    """A tab-separated file whose header says ``name:type``; all as strings, empty ones null."""
    with wheel.open(f"{INSIDE}.{kind}") as stream:
        names = stream.readline().decode().strip().split("\t")
        return csv.read_csv(
            stream,
            read_options=csv.ReadOptions(column_names=names),
            parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=csv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
