"""What a release needs is there, and says the same everywhere."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def bounds():
    """Requirement name -> lowest version, of the library and all its extras for users."""
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["run"], *extras["transformers"], *extras["index"]]
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in wanted)


def pins(file):
    lines = (ROOT / file).read_text().splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_the_lowest_versions_are_those_that_are_promised():
    lowest, promised = pins("constraints-lowest.txt"), bounds()
    assert lowest.pop("torch").startswith(promised.pop("torch"))
    assert lowest == promised


def test_the_newest_versions_are_those_of_every_day():
    assert set(bounds()) <= set(pins("constraints.txt"))


def test_a_citation_names_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == PROJECT["version"]
    assert cited["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert all(entry["title"] and entry["authors"] for entry in cited["references"])


@pytest.mark.parametrize(
    "file", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.md")), ids=lambda f: f.stem
)
def test_an_issue_template_has_a_head(file):
    _, head, body = file.read_text().split("---\n", 2)
    assert {"name", "about"} <= set(yaml.safe_load(head))
    assert body.strip()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_of_the_first_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", (ROOT / page).read_text())
    assert not [link for link in links if not (ROOT / link).exists()]
    if page == "README.md":
        assert "docs/index.md" in links
