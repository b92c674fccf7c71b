"""A small loop on Hugging Face Accelerate that can be stopped at any moment.

Under ``torchrun`` or ``accelerate launch`` every process runs it: each takes its share of every
batch, the first writes and prints, and all stop at the same step.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
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
from negcache.interfaces import Store
from negcache.messages import Batch
from negcache.run.progress import bar
from negcache.run.signals import Stopped, StopSignals, stop_signals
from negcache.run.training.best import Best
from negcache.run.training.checkpoint import Checkpoints
from negcache.run.training.config import Config
from negcache.run.training.fill import FillCheckpoints
from negcache.run.training.log import RunLog
from negcache.run.training.parts import Parts
from negcache.run.training.step import Forward, train_step
from negcache.run.training.unchanged import check_unchanged

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
                "a dev split to evaluate on", "none", "add qrels/dev.tsv, or set eval_every = 0"
            )
        self.config, self.folder, self.accelerator = config, folder, accelerator
        self.mesh = Mesh.now().watch()
        check_shares(config.batch_size, self.mesh.size)
        self.parts = replace(parts, optimizer=accelerator.prepare(parts.optimizer), mesh=self.mesh)
        self.model = self._wrapped(Forward(parts.query_tower, parts.loss_fn))
        self.checkpoints = Checkpoints(folder / "checkpoints", config.keep_checkpoints, self.mesh)
        seconds = config.cache.fill_checkpoint_seconds
        self.fills = FillCheckpoints(folder / "fill", seconds, self.mesh)
        self.best = Best(config.save_best, config.early_stopping_patience)
        self.step, self._seconds, self._owes = 0, 0.0, False
        self._log_state: dict[str, Any] | None = None
        self._filled: Store | None = None

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

    @property
    def is_spent(self) -> bool:
        """Whether the seconds of its budget have passed."""
        return self.config.max_seconds is not None and self._seconds >= self.config.max_seconds

    @property
    def is_done(self) -> bool:
        """Whether it is not trained on."""
        return self.step >= self.config.steps or self.is_stopped_early or self.is_spent

    def restore(self, *, fall_back: bool = False) -> None:
        """Go on from the newest checkpoint, if there is one; or from where a fill has come to.

        Args:
            fall_back: take the one before, where the newest is damaged.
        """
        fill = None if fall_back else self.fills.newest(self.checkpoints.newest)
        state = (fill or self.checkpoints).load(self.parts.wants, fall_back=fall_back)
        if state is not None:
            self._take(state)

    def restore_step(self, step: int, *, whole: bool = False) -> None:
        """Have the towers of the checkpoint of this step: to measure or to search with.

        Args:
            whole: all else too, as it was then.
        """
        if whole:
            return self._take(self.checkpoints.load_step(step, self.parts.wants))
        state = self.checkpoints.load_step(step, lambda name: name != "loss")
        check_unchanged(state, self.config, self.parts.data, self.folder)
        self.parts.load_towers(state["parts"])
        self.step = state["step"]

    def _take(self, state: dict[str, Any]) -> None:
        check_unchanged(state, self.config, self.parts.data, self.folder)
        self.best.load_state_dict(state["best"])
        self.parts.load_state_dict(state["parts"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self._log_state = state["step"], state["log"]
        self._seconds = state["log"]["seconds"].get("wall", 0.0)
        self._owes = state["owes"]
        self._filled = self.parts.loss_fn.store if state["parts"]["loss"]["filled"] else None

    def run(self) -> int | None:
        """Train to the last step, until no better evaluation is waited for, or for its seconds.

        Returns the number of the signal that stopped it, if any.

        Raises:
            InputError: a process does not answer any more; it is named.
        """
        config = self.config
        with ExitStack() as stack:
            stack.enter_context(self._named_absence())
            end = config.steps * config.accumulation
            batches = stack.enter_context(self.parts.data.begin(self.position, end))
            shown = self.mesh.rank == 0
            log = stack.enter_context(RunLog(self.folder, self._log_state)) if shown else None
            stops = stack.enter_context(stop_signals())
            moved = bar("training", self.step, config.steps) if shown else nullcontext(_ignore)
            advance = None
            while self._owes or not self.is_done:
                if stop := self._fill(log, stops):
                    return stop
                advance = advance or stack.enter_context(moved)
                if not self._owes:
                    advance(self._one_step(batches, log))
                improved = self._measure(log, stops)
                stop = self._agreed(stops, log)
                if self.is_done or stop or improved or _due(self.step, config.checkpoint_every):
                    self._save(log)
                if stop and (self._owes or not self.is_done):
                    return stop
            self._conclude(log)
        return None

    def _fill(self, log: RunLog | None, stops: StopSignals) -> int | None:
        """Encode what the store lacks, where it has not been filled; the signal that stopped it."""
        loss_fn = self.parts.loss_fn
        if loss_fn.store is None or loss_fn.store is self._filled:
            return None
        state, stop = partial(self._state, log), partial(self._agreed, stops, None)
        start = perf_counter()
        try:
            before = self.fills.fill(loss_fn, self.step, state, stop)
        except Stopped as stopped:
            return stopped.number
        if log is not None:
            log.add_fill(before, perf_counter() - start)
        self._filled = loss_fn.store
        return None

    def _agreed(self, stops: StopSignals, log: RunLog | None) -> int:
        """The signal that stops all processes, if any of them has one, and the seconds so far.

        Read once a step: a signal during the save waits for the next.
        """
        seconds = self._seconds if log is None else log.seconds["wall"]
        mine = torch.tensor([stops.received[0] if stops.received else 0, seconds])
        stop, self._seconds = self.mesh.largest(mine.double().to(self.mesh.device)).tolist()
        return int(stop)

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
    def position(self) -> int:
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

    def _measure(self, log: RunLog | None, stops: StopSignals) -> bool:
        """Measure the dev split and write what is due after a step; whether it is the best so far.

        An evaluation that a signal stops is owed: a later process makes it before the next step.
        """
        measured: dict[str, float] = {}
        try:
            if self.parts.evaluate is not None and _due(self.step, self.config.eval_every):
                with stops.at_once() if self.mesh.size == 1 else nullcontext():
                    measured = self.parts.evaluate()
            self._owes = False
        except Stopped:
            self._owes = True
            return False
        if log is not None:
            if _due(self.step, self.config.log_every):
                self._flush(log)
            if measured:
                log.write(self.step, measured, "dev/")
        return bool(measured) and self.best.update(self.step, measured)

    def _flush(self, log: RunLog) -> None:
        log.flush(self.step, self.parts.data.place(self.position - 1)[0])

    def _conclude(self, log: RunLog | None) -> None:
        """The last lines. No checkpoint knows of them: a run that is lengthened has others."""
        if log is not None:
            if log.window["steps"]:
                self._flush(log)
            if self.is_stopped_early:
                log.write(self.step, self.best.figures(), "early_stopping/")

    def _save(self, log: RunLog | None) -> None:
        self.checkpoints.save(self.step, self._state(log), best=self.best.step)
        self.fills.forget()

    def _state(self, log: RunLog | None) -> dict[str, Any]:
        epoch, batch = self.parts.data.place(self.position)
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "position": {"epoch": epoch, "batch": batch},
            "owes": self._owes,
            "config": self.config.model_dump(),
            "fingerprints": self.parts.data.fingerprints,
            "parts": self.parts.state_dict(),
            "best": self.best.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "log": None if log is None else log.state_dict(self.step),
        }


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
