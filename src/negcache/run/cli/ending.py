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


LOCAL_COUNT = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
"""How many of them are on this machine."""


def command(words: str) -> str:
    """A command as it has to be typed, with the launcher that started this one."""
    if RANK_COUNT == 1:
        return f"negcache {words}"
    return f"torchrun --nproc-per-node={LOCAL_COUNT} -m negcache {words}"


def say_shorter(planned: int, run: "Run") -> None:
    """A run that is to end earlier than it had been says so.

    Args:
        planned: steps, before.
        run: as it is now.
    """
    if run.config.steps < planned:
        say(
            f"This run was to make {planned} steps; from now on it ends at {run.config.steps}, "
            f"{run.trainer.step} of which are made. --steps {planned} makes it as long again."
        )


def train_to_the_end(run: "Run") -> None:
    """Train to the end, or say how to go on."""
    trainer, next_one = run.trainer, f"next: negcache evaluate {run.folder}"
    if trainer.is_stopped_early:
        say("This run was stopped early and is finished; it is not trained on.")
    stopped(trainer.run(), command(f"resume {run.folder}"))
    best = f"; best {trainer.best}" if trainer.best.step else ""
    if trainer.is_spent and trainer.step < run.config.steps:
        say(
            f"Its {run.config.max_seconds:g} seconds have passed at step {trainer.step} of "
            f"{run.config.steps}{best}; {next_one}; to go on: "
            + command(f"resume {run.folder} --max-seconds S")
        )
    elif trainer.is_stopped_early:
        say(
            f"Stopped early at step {trainer.step} of {run.config.steps}: no better evaluation in "
            f"{trainer.best.waited}{best}; {next_one}"
        )
    else:
        say(f"{trainer.step} steps done{best}; {next_one}")


def stopped(signal: int | None, again: str) -> None:
    if signal is not None:
        say(f"Stopped; everything is in a checkpoint. To go on: {again}", err=True)
        raise typer.Exit(128 + signal)


def say(text: str, *, err: bool = False) -> None:
    """One process prints."""
    if not RANK:
        typer.echo(visible(text), err=err)
