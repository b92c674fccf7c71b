"""``negcache export``: the trained towers as folders that sentence-transformers loads."""

from pathlib import Path
from typing import Any

from negcache.errors import InputError
from negcache.run.cli.runs import Run
from negcache.run.training.checkpoint import writing


def export_run(run: Run, out: Path) -> list[Path]:
    """Write the towers of a run; returns the folders.

    Args:
        run: with transformer towers.
        out: to be made; one model where the towers are shared, else ``query`` and ``item`` in it.
    """
    keys = run.config.tower
    if keys.kind != "transformer":
        raise InputError(
            'a run with tower.kind "transformer"',
            f'"{keys.kind}" in {run.folder}',
            "static towers are in the checkpoints of the run",
        )
    if out.exists():
        raise InputError("a folder that does not exist yet", f"{out}", "choose another")
    query: Any = run.towers.query_tower
    item: Any = run.towers.item_tower
    with writing(out):
        if keys.shared:
            prompts = {"query": keys.query_prompt, "document": keys.item_prompt}
            return [query.save(out, prompts=prompts)]
        return [query.save(out / "query"), item.save(out / "item")]
