"""One HTML page that needs nothing beside itself."""

import base64
from collections.abc import Mapping
from pathlib import Path

from negcache.run.cli.comparing.report import Report
from negcache.run.cli.comparing.significance import CONFIDENCE
from negcache.run.cli.template import open_template


def render(report: Report, pictures: Mapping[str, bytes]) -> str:
    """The page of a comparison.

    Args:
        report: what is said.
        pictures: caption and PNG of each, in order.
    """
    embedded = {
        caption: base64.b64encode(picture).decode() for caption, picture in pictures.items()
    }
    return open_template(Path(__file__).with_name("page.html.jinja")).render(
        report=report, pictures=embedded, confidence=f"{CONFIDENCE:.0%}"
    )
