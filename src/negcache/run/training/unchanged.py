"""What may be changed in a run that goes on, and what may not."""

from pathlib import Path
from typing import Any

from negcache.errors import InputError
from negcache.run.training.config import Config, differences, leaves, parse_config
from negcache.run.training.parts import TrainingData

BUDGET = ("max_seconds", "cache.fill_checkpoint_seconds")
"""Keys that decide nothing but how far a run is trained, and what a kill costs."""


def check_unchanged(state: dict[str, Any], config: Config, data: TrainingData, run: Path) -> None:
    """Refuse a checkpoint of another config or other data: it would be another run.

    Args:
        state: of the checkpoint.
        config: to go on with; its ``steps`` may be others under a constant learning rate.
        data: to go on with.
        run: folder of the run.
    """
    before = parse_config(state["config"])
    changed = [
        f"{key} ({old!r} -> {new!r})"
        for key, old, new in differences(before, config)
        if key not in (*BUDGET, "steps")
    ]
    if changed:
        raise InputError(
            "the config that the run was started with",
            f"changes in {', '.join(changed)}",
            "undo them in config.json, or train anew into another folder",
        )
    if before.steps != config.steps:
        _check_steps(state["step"], before, config)
    _check_data(state["fingerprints"], config, data, run)


def _check_steps(done: int, before: Config, config: Config) -> None:
    schedule = config.schedule.name
    if schedule != "constant":
        raise InputError(
            f'the {before.steps} steps that schedule.name "{schedule}" was made for',
            f"{config.steps}, which would have had another learning rate from the first on",
            'train anew into another folder; with "constant" a run can be lengthened',
        )
    if config.steps < done:
        raise InputError(
            f"at least the {done} steps that have been made",
            f"{config.steps}",
            "name more; evaluate --checkpoint STEP measures an earlier one",
        )


def _check_data(before: dict[str, str], config: Config, data: TrainingData, run: Path) -> None:
    found = data.fingerprints
    for name in sorted(before | found):
        if before.get(name) != found.get(name):
            place = dict(leaves(config.model_dump())).get(name, run / name)
            raise InputError(
                f"the data that the run was started with ({before.get(name, 'none')[:12]})",
                f"other data in {name}, {place} ({found.get(name, 'none')[:12]})",
                "restore the data, or train anew into another folder",
            )
