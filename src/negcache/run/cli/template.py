"""HTML pages from templates; whatever is put into them is escaped."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def open_template(path: Path) -> Template:
    """A jinja template that refuses names it was not given."""
    words = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return words.get_template(path.name)
