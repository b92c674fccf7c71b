"""What a command says when it ends; of several processes the first speaks."""

import os
from typing import TYPE_CHECKING

import typer

from negcache.errors import visible

if TYPE_CHECKING:
    from negcache.run.cli.runs import Run

RANK = int(os.environ.get("RANK", "0"))
"""Number of this process among those that ``torchrun`` or ``accelerate launch`` started."""

RANK_COUNT = int(os.environ.get("WORLD_SIZE", "1"))
"""How many there are."""


def train_to_the_end(run: "Run") -> None:
    """Train to the end, or say how to go on."""
    trainer, next_one = run.trainer, f"next: negcache evaluate {run.folder}"
    if trainer.is_stopped_early:
        say("This run was stopped early and is finished; it is not trained on.")
    stopped(trainer.run(), f"negcache resume {run.folder}")
    best = f"; best {trainer.best}" if trainer.best.step else ""
    if trainer.is_spent and trainer.step < run.config.steps:
        say(
            f"Its {run.config.max_seconds:g} seconds have passed at step {trainer.step} of "
            f"{run.config.steps}{best}; {next_one}; to go on: negcache resume {run.folder} "
            "--max-seconds S"
        )
    elif trainer.is_stopped_early:
        say(
            f"Stopped early at step {trainer.step} of {run.config.steps}: no better evaluation in "
            f"{trainer.best.waited}{best}; {next_one}"
        )
    else:
        say(f"{trainer.step} steps done{best}; {next_one}")


def stopped(signal: int | None, command: str) -> None:
    if signal is not None:
        say(f"Stopped; everything is in a checkpoint. To go on: {command}", err=True)
        raise typer.Exit(128 + signal)


def say(text: str, *, err: bool = False) -> None:
    """One process prints."""
    if not RANK:
        typer.echo(visible(text), err=err)
