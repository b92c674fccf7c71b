"""``negcache export``: the trained towers as folders that sentence-transformers loads."""

from pathlib import Path
from typing import Any

from torch import nn

from negcache.errors import InputError
from negcache.run.atomic import atomic_write, check_writable, forget_interrupted, writing
from negcache.run.cli.runs import Run


def check_out(out: Path) -> None:
    """Refuse a folder that is there, or cannot be made."""
    if out.exists() or out.is_symlink():
        raise InputError("a folder that does not exist yet", f"{out}", "choose another")
    check_writable(out.absolute().parent)


def export_run(run: Run, out: Path) -> list[Path]:
    """Write the towers of a run; returns the folders.

    Args:
        run: whose towers are trained.
        out: to be made; one model where the towers are shared, else ``query`` and ``item`` in it.
    """
    check_out(out)
    forget_interrupted(out)
    save = _save_static if run.config.tower.kind == "static" else _save_transformer
    with writing(out), atomic_write(out, exclusive=True) as part:
        if run.config.tower.shared:
            save(run, run.towers.query_tower, part)
            return [out]
        part.mkdir()
        save(run, run.towers.query_tower, part / "query")
        save(run, run.towers.item_tower, part / "item")
        return [out / "query", out / "item"]


def _save_transformer(run: Run, tower: Any, folder: Path) -> None:
    keys = run.config.tower
    prompts = {"query": keys.query_prompt, "document": keys.item_prompt}
    tower.save(folder, prompts=prompts if keys.shared else None)


def _save_static(run: Run, tower: nn.Module, folder: Path) -> None:
    try:
        from negcache.towers.static_model import save_static
    except ImportError as error:
        raise InputError(
            "sentence-transformers, whose folders are written",
            str(error),
            'pip install "negcache[transformers]"',
        ) from error
    from negcache.towers.static import StaticTower

    tokenizer = run.source.tokenizer
    assert isinstance(tower, StaticTower)
    assert tokenizer is not None
    save_static(folder, tower, tokenizer, normalize=run.config.score.normalize)
