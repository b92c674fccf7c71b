"""What the docs name is there: names of the library, files, links, config keys and defaults."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import negcache
from negcache.run.training import load_config
from negcache.run.training.config import Config, leaves

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
ROOMS = "samplers|stores|contrib|towers|estimators|indexes|ops|testing|messages"


def found(name: str) -> bool:
    """Whether this dotted name is a module, or a name within one."""
    home, _, last = name.rpartition(".")
    try:
        return bool(import_module(name))
    except ModuleNotFoundError:
        return bool(home) and hasattr(import_module(home), last)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_are_there(page):
    text = page.read_text()
    dotted = set(re.findall(r"\bnegcache(?:\.\w+)+", text))
    dotted |= {f"negcache.{name}" for name in re.findall(rf"`((?:{ROOMS})\.[A-Z]\w+)", text)}
    assert not [name for name in dotted if not found(name)]
    short = set(re.findall(r"\bnc\.(\w+)", text))
    assert not [name for name in short if not hasattr(negcache, name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_links_are_there(page):
    text = page.read_text()
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if ":" not in link]
    assert not [link for link in links if link and not (page.parent / link).exists()]
    files = set(re.findall(r"`((?:benchmarks|examples|scripts)/[\w/]+\.py)`", text))
    inside = re.findall(r"`((?:run|ops|stores|samplers|indexes)/[\w/]+\.py)", text)
    files |= {f"src/negcache/{name}" for name in inside}
    assert not [name for name in files if not (ROOT / name).exists()]
    programs = {f"benchmarks/{name}" for name in re.findall(r"-m benchmarks\.([a-z_0-9]+)", text)}
    paths = [(ROOT / name, ROOT / f"{name}.py") for name in programs]
    assert all(folder.is_dir() or file.exists() for folder, file in paths), programs


def keys_of_the_page() -> dict[str, str]:
    """Dotted key -> the default as the page writes it, empty where it says none."""
    text = (ROOT / "docs" / "command_line.md").read_text()
    table = text.split("All keys with their defaults:")[1].split("\n\n")[1]
    told = {}
    for row in table.splitlines()[2:]:
        room, keys = (cell.strip() for cell in row.strip("|").split("|"))
        outside = re.sub(r"\([^)]*\)", "", keys)  # other values, remarks
        room = "" if room == "(top)" else re.findall(r"`(\w+)`", room)[0] + "."
        for name, _, default in (key.partition(" = ") for key in re.findall(r"`([^`]+)`", outside)):
            told[room + name] = default
    return told


def test_the_table_of_keys_is_that_of_the_config():
    defaults = dict(leaves(Config.model_validate({"data": {"source": ""}}).model_dump()))
    told = keys_of_the_page()
    assert set(told) == set(defaults)
    said = {key: tomllib.loads(f"x = {text}")["x"] for key, text in told.items() if text}
    assert said == {key: defaults[key] for key in said}
    assert all(defaults[key] in (None, "") for key in set(told) - set(said))


@pytest.mark.parametrize(("page", "refreshed"), [("command_line", 128), ("streams", 256)])
def test_the_config_of_the_page_loads(tmp_path, page, refreshed):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    (config,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "run.toml").write_text(config)
    assert load_config(tmp_path / "run.toml").cache.refresh_rows == refreshed
