"""A small loop on Hugging Face Accelerate that can be stopped at any moment.

Under ``torchrun`` or ``accelerate launch`` every process runs it: each takes its share of every
batch, the first writes and prints, and all stop at the same step.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from negcache.distributed import Mesh
from negcache.errors import InputError
from negcache.messages import Batch
from negcache.run.progress import bar, track
from negcache.run.training.best import Best
from negcache.run.training.checkpoint import Checkpoints
from negcache.run.training.config import Config, differences, leaves, parse_config
from negcache.run.training.log import RunLog
from negcache.run.training.parts import Parts
from negcache.run.training.signals import stop_signals
from negcache.run.training.step import Forward, train_step

ANSWER = 10.0
"""Seconds that a process has to answer, when others have waited for it in vain."""


def make_accelerator(config: Config) -> Accelerator:
    """The Accelerator that a config asks for; a launcher's processes meet here."""
    waiting = InitProcessGroupKwargs(timeout=timedelta(seconds=config.timeout_seconds))
    return Accelerator(
        cpu=config.device == "cpu",
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.accumulation,
        kwargs_handlers=[waiting],
    )


class Trainer:
    """Trains the parts of a run; its files live in one folder.

    Args:
        config: of the run.
        parts: what is trained, and on what.
        folder: of the run; it exists.
        accelerator: as ``make_accelerator`` made it.
    """

    def __init__(
        self, config: Config, parts: Parts, folder: Path, accelerator: Accelerator
    ) -> None:
        if config.eval_every and parts.evaluate is None:
            raise InputError(
                "a dev split to evaluate on", "data without it", "add qrels, or set eval_every = 0"
            )
        self.config, self.folder, self.accelerator = config, folder, accelerator
        self.mesh = Mesh.now().watch()
        check_shares(config.batch_size, self.mesh.size)
        self.parts = replace(parts, optimizer=accelerator.prepare(parts.optimizer), mesh=self.mesh)
        self.model = self._wrapped(Forward(parts.query_tower, parts.loss_fn))
        self.checkpoints = Checkpoints(folder / "checkpoints", config.keep_checkpoints, self.mesh)
        self.best = Best(config.save_best, config.early_stopping_patience)
        self.step = 0
        self._log_state: dict[str, Any] | None = None

    def _wrapped(self, model: nn.Module) -> nn.Module:
        """Gradients reach all processes; each drops out on its own."""
        if self.mesh.size == 1:
            return model
        torch.manual_seed(self.config.seed + self.mesh.rank)
        some_unused = self.config.tower.kind == "transformer"  # the pooler of many a model
        return DistributedDataParallel(model, find_unused_parameters=some_unused)

    @property
    def is_stopped_early(self) -> bool:
        """Whether it ended before its last step, because no better evaluation came."""
        return self.best.is_waited_out and self.step < self.config.steps

    def restore(self, *, fall_back: bool = False) -> None:
        """Go on from the newest checkpoint, if there is one.

        Args:
            fall_back: take the one before, where the newest is damaged.
        """
        state = self.checkpoints.load(self.parts.wants, fall_back=fall_back)
        if state is not None:
            self._take(state)

    def restore_step(self, step: int) -> None:
        """Have the towers of the checkpoint of this step: to measure or to search with."""
        state = self.checkpoints.load_step(step, lambda name: name != "loss")
        self._check_unchanged(state)
        self.parts.load_towers(state["parts"])
        self.step = state["step"]

    def _take(self, state: dict[str, Any]) -> None:
        self._check_unchanged(state)
        self.best.load_state_dict(state["best"])
        self.parts.load_state_dict(state["parts"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self._log_state = state["step"], state["log"]

    def run(self) -> int | None:
        """Train to the last step, or until no better evaluation is waited for.

        Returns the number of the signal that stopped it, if any.

        Raises:
            InputError: a process does not answer any more; it is named.
        """
        config = self.config
        with ExitStack() as stack:
            stack.enter_context(self._named_absence())
            end = config.steps * config.accumulation
            batches = stack.enter_context(self.parts.data.begin(self._position, end))
            shown = self.mesh.rank == 0
            log = stack.enter_context(RunLog(self.folder, self._log_state)) if shown else None
            if self.step == 0:
                progress = track("filling the cache") if shown else iter
                self.parts.loss_fn.fill_cache(progress=progress)
            received = stack.enter_context(stop_signals())
            moved = bar("training", self.step, config.steps) if shown else nullcontext(_ignore)
            advance = stack.enter_context(moved)
            while self.step < config.steps and not self.is_stopped_early:
                advance(self._one_step(batches, log))
                measured = self._evaluate()
                improved = bool(measured) and self.best.update(self.step, measured)
                last = self.step == config.steps or self.is_stopped_early
                self._log(log, measured, last)
                stop = self._agreed(received)
                if last or stop or improved or _due(self.step, config.checkpoint_every):
                    self._save(log)
                if stop and not last:
                    return stop
        return None

    def _agreed(self, received: list[int]) -> int:
        """The signal that stops all processes, if any of them has one.

        Read once a step: a signal during the save waits for the next.
        """
        mine = torch.tensor(received[0] if received else 0, device=self.mesh.device)
        return int(self.mesh.largest(mine))

    @contextmanager
    def _named_absence(self) -> Iterator[None]:
        """A process that others wait for in vain is named."""
        try:
            yield
        except RuntimeError as error:
            absent = self.mesh.absent(ANSWER) if self.mesh.size > 1 else ""
            if not absent:
                raise
            raise InputError(
                f"every process to answer within {self.config.timeout_seconds:g} seconds",
                absent,
                "look into the log of that process; torchrun --max-restarts=3 starts all anew from "
                "the newest checkpoint",
            ) from error

    @property
    def _position(self) -> int:
        """Batches consumed so far."""
        return self.step * self.config.accumulation

    def _one_step(self, batches: Iterator[Batch], log: RunLog | None) -> float:
        """One optimizer step; returns the loss of its last batch."""
        start = perf_counter()
        clip_norm = self.config.optimizer.clip_norm
        parts, some = (self.parts, self.model), islice(batches, self.config.accumulation)
        done = train_step(*parts, some, self.accelerator, self.step + 1, clip_norm)
        self.step += 1
        if log is not None:
            log.add(done, perf_counter() - start)
        return done.reports[-1].loss

    def _evaluate(self) -> dict[str, float]:
        """Measures of the dev split, when they are due; else none."""
        evaluate = self.parts.evaluate
        if evaluate is None or not _due(self.step, self.config.eval_every):
            return {}
        return evaluate()

    def _log(self, log: RunLog | None, measured: dict[str, float], last: bool) -> None:
        """Write what is due after a step."""
        if log is None:
            return
        if last or _due(self.step, self.config.log_every):
            log.flush(self.step, self.parts.data.place(self._position - 1)[0])
        if measured:
            log.write(self.step, measured, "dev/")
        if self.is_stopped_early:
            log.write(self.step, self.best.figures(), "early_stopping/")

    def _save(self, log: RunLog | None) -> None:
        epoch, batch = self.parts.data.place(self._position)
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "position": {"epoch": epoch, "batch": batch},
            "config": self.config.model_dump(),
            "fingerprints": self.parts.data.fingerprints,
            "parts": self.parts.state_dict(),
            "best": self.best.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "log": None if log is None else log.state_dict(self.step),
        }
        self.checkpoints.save(self.step, state, best=self.best.step)

    def _check_unchanged(self, state: dict[str, Any]) -> None:
        known = ("best", "fingerprints", "scheduler")
        missing = [name for name in known if name not in state | state["parts"]]
        if missing:
            raise InputError(
                "a checkpoint of this version of negcache",
                f"one without {' and '.join(missing)} in {self.folder}",
                "go on with the version that wrote it, or train anew into another folder",
            )
        changed = differences(parse_config(state["config"]), self.config)
        if changed:
            raise InputError(
                "the config that the run was started with",
                f"changes in {', '.join(changed)}",
                "undo them in config.json, or train anew into another folder",
            )
        self._check_data(state["fingerprints"])

    def _check_data(self, before: dict[str, str]) -> None:
        found = self.parts.data.fingerprints
        for name in sorted(before | found):
            if before.get(name) != found.get(name):
                place = dict(leaves(self.config.model_dump())).get(name, self.folder / name)
                raise InputError(
                    f"the data that the run was started with ({before.get(name, 'none')[:12]})",
                    f"other data in {name}, {place} ({found.get(name, 'none')[:12]})",
                    "restore the data, or train anew into another folder",
                )


def check_shares(batch_size: int, processes: int) -> None:
    """Every process has queries. Raises InputError."""
    if batch_size < processes:
        raise InputError(
            f"a batch_size of at least the {processes} processes",
            f"{batch_size}",
            "each takes its share of the queries of every batch",
        )


def _ignore(_loss: float) -> None:
    """Where nothing is shown."""


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
