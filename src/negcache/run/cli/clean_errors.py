"""How a command ends that was given something bad, or was stopped: one message, and a code."""

import os
from signal import Signals
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from negcache.errors import InputError
from negcache.run.cli.ending import RANK, say
from negcache.run.signals import Stopped, stop_signals

TOGETHER = ("train", "resume", "evaluate")
"""Verbs that several processes share; the others are done by the first."""


class CleanErrors(TyperGroup):
    """Bad input ends with one message and code 2, never with a traceback.

    Of several processes the first alone does what is not for all.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, *found = super().resolve_command(ctx, args)
        if name not in TOGETHER:
            _be_the_only_one()
        return name, *found

    def invoke(self, ctx: Any) -> Any:
        try:
            with stop_signals() as stops, stops.at_once():
                return super().invoke(ctx)
        except InputError as error:
            told = f"process {RANK}: {error}" if RANK else str(error)
            Console(stderr=True).print(told, markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from error
        except Stopped as stop:
            say(
                f"Stopped by {Signals(stop.number).name}; nothing is half written. The same "
                "command does it again; a run that has begun to train: negcache resume RUN",
                err=True,
            )
            raise typer.Exit(128 + stop.number) from stop


def _be_the_only_one() -> None:
    if RANK:
        raise typer.Exit(0)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # nobody is to be waited for
        os.environ.pop(name, None)
