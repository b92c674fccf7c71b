"""The figures of a diagnosis, as they are written beside its run and read again."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from negcache.diagnosis import Diagnosis
from negcache.errors import InputError
from negcache.run.cli.diagnosing.costs import bytes_of, seconds_of
from negcache.run.cli.runs import Run

FOLDER, FIGURES, PAGE = "diagnosis", "diagnosis.json", "diagnosis.html"
"""In the folder of a run, and in that one."""

FORMAT = 1
"""Of the figures."""


def figures_of(run: Run, found: Diagnosis, split: str) -> dict[str, Any]:
    """What was found, of which run, and what that run took; ready for JSON.

    ``first_batch`` is the number of the first batch of a stream that was asked.
    """
    step, pairs = run.trainer.step, run.config.data.pairs
    return {
        "format": FORMAT,
        "negcache": version("negcache"),
        "run": run.folder.resolve().name,
        "step": step,
        "split": split,
        "first_batch": None if pairs is None else run.trainer.position,
        **found.figures(),
        "run_seconds": seconds_of(run.folder, step),
        "run_bytes": bytes_of(run),
    }


def read_diagnosis(folder: Path, last: int) -> dict[str, Any] | None:
    """What was found of a run at this step or before; None: it was not diagnosed.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / FOLDER / FIGURES
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT or not found["samplers"]:
            raise ValueError(f"format {found['format']} instead of {FORMAT}")
        return found if found["step"] <= last else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"an intact diagnosis {path}",
            f"{error!r}",
            f"make it again: negcache diagnose {folder}",
        ) from error
