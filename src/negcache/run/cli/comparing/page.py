"""One HTML page that needs nothing beside itself."""

import base64
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from negcache.run.cli.comparing.report import Report
from negcache.run.cli.comparing.significance import CONFIDENCE


def render(report: Report, pictures: Mapping[str, bytes]) -> str:
    """The page of a comparison.

    Args:
        report: what is said.
        pictures: caption and PNG of each, in order.
    """
    home = FileSystemLoader(Path(__file__).parent)
    words = Environment(
        loader=home,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    embedded = {
        caption: base64.b64encode(picture).decode() for caption, picture in pictures.items()
    }
    return words.get_template("page.html.jinja").render(
        report=report, pictures=embedded, confidence=f"{CONFIDENCE:.0%}"
    )
