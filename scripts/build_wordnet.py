"""Builds the WordNet 3.0 file that negcache ships, from Debian's wordnet-base package.

Run: python -m scripts.build_wordnet. Writes `wordnet30.parquet` and `WORDNET_LICENSE.txt` into
src/negcache/run/data/assets; the same package gives the same bytes (with the same pyarrow).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
from pyarrow import parquet

from benchmarks.datasets.fetching import DEBIAN, Package, fetch, unpack_deb

PACKAGE = Package(
    DEBIAN,
    name="wordnet-base",
    version="1:3.0-37",
    sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
)
ASSETS = Path(__file__).parents[1] / "src" / "negcache" / "run" / "data" / "assets"
FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("pos", pa.string()),
        ("lemmas", pa.list_(pa.string())),
        ("definition", pa.string()),
        ("examples", pa.list_(pa.string())),
    ]
)
PLACE = re.compile(r"\((a|p|ip)\)$")  # where an adjective may stand; no part of the lemma
QUOTED = re.compile(r'"([^"]*)"')
UNCLOSED = re.compile(r"\s*\([^()]*$")  # what is left of `(as in "example")`


def main() -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        unpack_deb(fetch(PACKAGE, root), root)
        rows = [row for letter in FILES for row in entries(root / "usr/share/wordnet", letter)]
        licence = princeton_licence(root / "usr/share/doc/wordnet-base/copyright")
    ASSETS.mkdir(exist_ok=True)
    table = pa.Table.from_pylist(rows, SCHEMA)
    target = ASSETS / "wordnet30.parquet"
    parquet.write_table(table, target, compression="zstd", compression_level=22)
    (ASSETS / "WORDNET_LICENSE.txt").write_text(licence, encoding="utf-8")
    print(f"{len(rows):,} entries, {target.stat().st_size:,} bytes in {target.name}")


def entries(folder: Path, letter: str) -> Iterator[dict[str, object]]:
    """The entries of one data file; its lines are described in WordNet's manual, wndb(5)."""
    with (folder / f"data.{FILES[letter]}").open(encoding="ascii") as lines:
        for line in lines:
            if line.startswith("  "):  # the licence, at the head of the file
                continue
            fields, gloss = line.strip().split(" | ", 1)
            offset, _, _, count, *rest = fields.split(" ")
            lemmas = [PLACE.sub("", lemma) for lemma in rest[: 2 * int(count, 16) : 2]]
            yield {
                "id": letter + offset,
                "pos": letter,
                "lemmas": [lemma.replace("_", " ") for lemma in lemmas],
                "definition": definition(gloss),
                "examples": QUOTED.findall(gloss),
            }


def definition(gloss: str) -> str:
    """What a gloss says before its first quotation."""
    return UNCLOSED.sub("", gloss.partition('"')[0]).rstrip(" ;:,-").strip()


def princeton_licence(copyright_file: Path) -> str:
    """Princeton's licence out of a Debian copyright file, where a lone dot is an empty line."""
    text = copyright_file.read_text(encoding="utf-8")
    licence = text.split("License: WordNet3.0\n", 1)[1].split("\nFiles:", 1)[0]
    lines = [line.strip() for line in licence.strip().splitlines()]
    return "\n".join("" if line == "." else line for line in lines) + "\n"


if __name__ == "__main__":
    main()
