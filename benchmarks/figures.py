"""Are the figures in README and docs those of `results/`?

    python -m benchmarks.figures [FILE.md ...]     what every comment yields, and what it stands for

A passage (paragraph, list item, table) with a figure ends in a comment, which readers do not see:

* ``<!-- figures: select avg(mrr10) from first_comparison where step = 2000 -->``: SQLite over
  ``results/NAME.csv`` as table ``NAME`` and ``results/NAME.json`` as table ``NAME_answer`` of one
  row. What it yields has to stand in the passage, in this order and rounded as printed there, and
  every number with a decimal point or a per cent sign has to be among it. A literal in the query
  says that this number is a setting, or published, or not committed.
* ``<!-- not committed -->``: measured, but no row was kept; the section says so, with the command.
* ``<!-- no measurement -->``: settings, definitions, what others published.

Besides SQLite's own functions there are ``stdev``, ``median`` and ``place(value, first, second,
...)``, which puts rows in the order of a table.
"""

import argparse
import csv
import json
import re
import sqlite3
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from benchmarks.record import RESULTS

ROOT = Path(__file__).parent.parent
COMMENT = re.compile(r"<!--\s*(figures:|not committed|no measurement)(.*?)-->", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.@^])(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[ \u00a0]?%)?")
UNIT = re.compile(r"\d[ \u00a0](?:ms|s|milliseconds|seconds|MB|GB|times)\b")
BENCHMARK = re.compile(r"benchmarks[./](\w+)")
COMMAND = re.compile(r"python |negcache |make |examples/\w+\.py")


@dataclass
class Passage:
    """A paragraph, list item or table: its words and comments, and its section up to its end."""

    file: str
    line: int
    text: str = ""
    code: str = ""
    comments: list[tuple[str, str]] = field(default_factory=list)
    section: str = ""

    @property
    def numbers(self) -> list[str]:
        return [found.rstrip(",") for found in NUMBER.findall(self.text)]

    @property
    def is_measured(self) -> bool:
        return any(must_be_yielded(n) for n in self.numbers) or bool(UNIT.search(self.text))


def must_be_yielded(number: str) -> bool:
    return "." in number or "%" in number


def passages(file: Path) -> Iterator[Passage]:
    """All passages of a page, in order."""
    name = str(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file)
    above, last = "", Passage(name, 0)
    inside_table = is_heading = False
    for token in MarkdownIt("commonmark").enable("table").parse(file.read_text()):
        if token.type in ("table_open", "inline") and not inside_table:
            if last.line:
                yield last
            above = "" if is_heading else above + last.text + last.code
            last = Passage(name, token.map[0] + 1 if token.map else 0)
        inside_table = (inside_table or token.type == "table_open") and token.type != "table_close"
        is_heading = token.type == "heading_open"
        read(token, last)
        last.section = above + last.text + last.code
    yield last


def read(token: Token, passage: Passage) -> None:
    """Words, code and comments of a token, added to its passage."""
    for part in [token, *(token.children or [])]:
        if part.type == "text":
            passage.text += part.content
        elif part.type in ("code_inline", "fence"):
            passage.code += f" {part.content} "
        elif part.type in ("softbreak", "hardbreak"):
            passage.text += " "
        elif part.type in ("html_block", "html_inline"):
            passage.comments += [(kind, rest.strip()) for kind, rest in found(part.content)]
    passage.text += " "


def found(html: str) -> list[tuple[str, str]]:
    return COMMENT.findall(html)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Spread:
    """``stdev(x)`` and ``median(x)``, which SQLite lacks."""

    measure: Callable[[list[float]], float]

    def __init__(self) -> None:
        self.values: list[float] = []

    def step(self, value: float | None) -> None:
        if value is not None:
            self.values.append(value)

    def finalize(self) -> float:
        return type(self).measure(self.values)


def place(value: str, *order: str) -> int | None:
    """Where a value stands in an order; nothing where it does not."""
    return order.index(value) if value in order else None


def number_or_text(cell: str) -> float | str | None:
    try:
        return float(cell)
    except ValueError:
        return cell or None


@cache
def database() -> sqlite3.Connection:
    """All committed results, each file a table."""
    base = sqlite3.connect(":memory:")
    for name, measure in {"stdev": statistics.stdev, "median": statistics.median}.items():
        kind: Any = type(name, (Spread,), {"measure": staticmethod(measure)})
        base.create_aggregate(name, 1, kind)
    base.create_function("place", -1, place)
    for file in RESULTS.glob("*.csv"):
        with file.open(newline="") as lines:
            header, *rows = csv.reader(lines)
        fill(base, file.stem, header, [[number_or_text(cell) for cell in row] for row in rows])
    for file in RESULTS.glob("*.json"):
        answer = json.loads(file.read_text())
        cells = [json.dumps(v) if isinstance(v, dict | list) else v for v in answer.values()]
        fill(base, f"{file.stem}_answer", list(answer), [cells])
    return base


def fill(base: sqlite3.Connection, name: str, header: list[str], rows: list[list]) -> None:
    columns = ", ".join(f'"{column}"' for column in header)
    base.execute(f'create table "{name}" ({columns})')
    base.executemany(f'insert into "{name}" values ({", ".join("?" * len(header))})', rows)


def values(query: str) -> list[float]:
    """What a query yields, row by row; nulls and words are left out."""
    try:
        rows = database().execute(query).fetchall()
    except sqlite3.Error as error:
        raise ValueError(f"{error} in: {query}") from error
    return [float(cell) for row in rows for cell in row if isinstance(cell, int | float)]


def is_printed_as(value: float, number: str) -> bool:
    """Whether a value is rounded to the printed number."""
    digits = number.rstrip("% \u00a0").replace(",", "")
    decimals = len(digits.partition(".")[2])
    return abs(abs(value) - float(digits)) <= 0.5 * 10**-decimals * (1 + 1e-6)


def unmatched(numbers: list[str], yielded: list[float]) -> str | None:
    """Why no reading of the passage has all that was yielded, in order, and every figure."""
    furthest = (0, 0)

    @cache
    def agrees(i: int, j: int) -> bool:
        nonlocal furthest
        furthest = max(furthest, (j, i))
        if i == len(numbers):
            return j == len(yielded)
        if j < len(yielded) and is_printed_as(yielded[j], numbers[i]) and agrees(i + 1, j + 1):
            return True
        return not must_be_yielded(numbers[i]) and agrees(i + 1, j)

    if agrees(0, 0):
        return None
    j, i = furthest
    value = f"{yielded[j]:.6g}" if j < len(yielded) else "nothing more"
    return f"the files say {value}, the passage {' '.join(numbers[i : i + 4]) or 'nothing more'}"


def fault(passage: Passage) -> str | None:
    """What is wrong with a passage's figures, if anything."""
    kinds = {kind for kind, _ in passage.comments}
    if not kinds:
        return "figures without a comment" if passage.is_measured else None
    if "not committed" in kinds and not says_so(passage.section):
        return "not committed, and the section does not say so, or names no command"
    queries = [rest for kind, rest in passage.comments if kind == "figures:"]
    tables = {name for query in queries for name in re.findall(r"(?:from|join) (\w+)", query)}
    named = set(BENCHMARK.findall(passage.section))
    unnamed = {t for t in tables if not any(t.startswith(name) for name in named)}
    if unnamed:
        return f"no command that makes {', '.join(sorted(unnamed))} is named in this section"
    if not queries:
        return None
    return unmatched(passage.numbers, [v for query in queries for v in values(query)])


def says_so(section: str) -> bool:
    return "not committed" in section and bool(COMMAND.search(section))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path)
    for file in parser.parse_args().files or pages():
        for passage in passages(file.resolve()):
            for kind, rest in passage.comments:
                if kind == "figures:":
                    print(f"{passage.file}:{passage.line}", *(f"{v:.6g}" for v in values(rest)))
            if wrong := fault(passage):
                print(f"{passage.file}:{passage.line}: {wrong}: {passage.text[:90].strip()}")


if __name__ == "__main__":
    main()
