"""The recommendation example on a real log: what the modules of the standard library import."""

import ast
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "recommendation.py"
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}


def imports(file: Path) -> list[str]:
    """Modules in the order in which the file first imports them."""
    found = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node.lineno, node.module))
    return list(dict.fromkeys(name for _, name in sorted(found)))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A log of (importing module, imported module), and the packages of the imported ones."""
    root, folder = Path(sysconfig.get_path("stdlib")), tmp_path_factory.mktemp("library")
    files = [f for f in sorted(root.rglob("*.py")) if not LEFT_OUT & set(f.relative_to(root).parts)]
    rows = [(str(f.relative_to(root)), name) for f in files for name in imports(f)]
    users, items = (list(column) for column in zip(*rows, strict=True))
    parquet.write_table(pa.table({"user": users, "item": items}), folder / "log.parquet")
    names = sorted(set(items))
    packages = [name.split(".")[0] for name in names]
    parquet.write_table(pa.table({"item": names, "package": packages}), folder / "items.parquet")
    return folder, len(names)


def recall(folder, *options):
    command = [sys.executable, EXAMPLE, "--log", folder / "log.parquet", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr
    return float(re.search(r"test: Recall@10 ([\d.]+), NDCG@10 [\d.]+\n", done.stdout)[1])


OPTIONS = "--epochs", 15, "--item-features", "package"


def test_it_learns_what_a_module_imports_next(library):
    folder, num_items = library
    learnt = recall(folder, *OPTIONS, "--items", folder / "items.parquet")
    assert learnt > 5 * 10 / num_items  # chance is 10 of all items


def test_impressions_are_read_and_it_still_learns(library):
    """A module is shown what the next one in the log imports."""
    folder, num_items = library
    log = parquet.read_table(folder / "log.parquet")
    shown = pa.table({"user": log["user"][:-50], "item": log["item"][50:]})
    parquet.write_table(shown, folder / "shown.parquet")
    beside = "--items", folder / "items.parquet", "--impressions", folder / "shown.parquet"
    assert recall(folder, *OPTIONS, *beside) > 5 * 10 / num_items


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 60
