"""The page of a diagnosis: it needs nothing beside itself."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from negcache.diagnosis import Diagnosis
from negcache.run.cli.diagnosing.plots import draw_ages, draw_coverage, draw_errors, draw_shares
from negcache.run.cli.planning.readable import readable
from negcache.run.cli.template import open_template


def render(found: Diagnosis, figures: dict[str, Any]) -> str:
    """From what was found, and the figures as they are written.

    Args:
        found: the diagnosis.
        figures: with the run's name, step, seconds and bytes.
    """
    seconds = {name: value for name, value in figures["run_seconds"].items() if name != "wall"}
    mib = {name: value / 2**20 for name, value in figures["run_bytes"].items()}
    pictures = {"errors": draw_errors(found), "bytes": draw_shares(mib, "MiB")}
    if found.ages:
        pictures["ages"] = draw_ages(found)
    if found.coverage_by_rows:
        pictures["coverage"] = draw_coverage(found)
    if seconds:
        pictures["seconds"] = draw_shares(seconds, "seconds")
    return open_template(Path(__file__).with_name("page.html.jinja")).render(
        found=found,
        figures=figures,
        own=found.of(found.own),
        sizes={name: readable(value) for name, value in figures["run_bytes"].items()},
        pictures={name: Markup(picture) for name, picture in pictures.items()},
    )
