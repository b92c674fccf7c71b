"""A small loop on Hugging Face Accelerate that can be stopped at any moment."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from accelerate import Accelerator

from negcache.errors import InputError
from negcache.run.progress import bar, track
from negcache.run.training.best import Best
from negcache.run.training.checkpoint import Checkpoints
from negcache.run.training.config import Config, differences, parse_config
from negcache.run.training.log import RunLog
from negcache.run.training.order import Order
from negcache.run.training.parts import Parts
from negcache.run.training.signals import stop_signals
from negcache.run.training.step import train_step


def make_accelerator(config: Config) -> Accelerator:
    """The Accelerator that a config asks for; one process only, until caches span several."""
    accelerator = Accelerator(
        cpu=config.device == "cpu",
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.accumulation,
    )
    if accelerator.num_processes > 1:
        raise InputError(
            "one process",
            f"{accelerator.num_processes}",
            "start without a launcher; training with several processes is not built yet",
        )
    return accelerator


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
        self.parts = replace(parts, optimizer=accelerator.prepare(parts.optimizer))
        self.order = Order(len(parts.pairs[0]), config.batch_size, config.seed)
        self.checkpoints = Checkpoints(folder / "checkpoints", config.keep_checkpoints)
        self.best = Best(config.save_best, config.early_stopping_patience)
        self.step = 0
        self._log_state: dict[str, Any] | None = None

    @property
    def is_stopped_early(self) -> bool:
        """Whether it ended before its last step, because no better evaluation came."""
        return self.best.is_waited_out and self.step < self.config.steps

    def restore(self, *, fall_back: bool = False) -> None:
        """Go on from the newest checkpoint, if there is one.

        Args:
            fall_back: take the one before, where the newest is damaged.
        """
        state = self.checkpoints.load(fall_back=fall_back)
        if state is not None:
            self._take(state)

    def restore_step(self, step: int) -> None:
        """Be as the checkpoint of this step has it: to measure or to search with, not to go on."""
        self._take(self.checkpoints.load_step(step))

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
        """
        config = self.config
        with ExitStack() as stack:
            log = stack.enter_context(RunLog(self.folder, self._log_state))
            if self.step == 0:
                self.parts.loss_fn.fill_cache(progress=track("filling the cache"))
            received = stack.enter_context(stop_signals())
            advance = stack.enter_context(bar("training", self.step, config.steps))
            while self.step < config.steps and not self.is_stopped_early:
                advance(self._one_step(log))
                measured = self._evaluate()
                improved = bool(measured) and self.best.update(self.step, measured)
                last = self.step == config.steps or self.is_stopped_early
                self._log(log, measured, last)
                stop = list(received)  # read once: a signal during the save waits for the next step
                if last or stop or improved or _due(self.step, config.checkpoint_every):
                    self._save(log)
                if stop and not last:
                    return stop[0]
        return None

    @property
    def _position(self) -> int:
        """Batches consumed so far."""
        return self.step * self.config.accumulation

    def _one_step(self, log: RunLog) -> float:
        """One optimizer step; returns the loss of its last batch."""
        start = perf_counter()
        numbers = (self.order.batch(self._position + i) for i in range(self.config.accumulation))
        batches = (self.parts.batch(part, self.accelerator.device) for part in numbers)
        clip_norm = self.config.optimizer.clip_norm
        done = train_step(self.parts, batches, self.accelerator, self.step + 1, clip_norm)
        self.step += 1
        log.add(done, perf_counter() - start)
        return done.reports[-1].loss

    def _evaluate(self) -> dict[str, float]:
        """Measures of the dev split, when they are due; else none."""
        evaluate = self.parts.evaluate
        if evaluate is None or not _due(self.step, self.config.eval_every):
            return {}
        return evaluate()

    def _log(self, log: RunLog, measured: dict[str, float], last: bool) -> None:
        """Write what is due after a step."""
        if last or _due(self.step, self.config.log_every):
            log.flush(self.step, self.order.place(self._position - 1)[0])
        if measured:
            log.write(self.step, measured, "dev/")
        if self.is_stopped_early:
            log.write(self.step, self.best.figures(), "early_stopping/")

    def _save(self, log: RunLog) -> None:
        epoch, batch = self.order.place(self._position)
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "position": {"epoch": epoch, "batch": batch},
            "config": self.config.model_dump(),
            "fingerprint": self.parts.fingerprint,
            "parts": self.parts.state_dict(),
            "best": self.best.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "log": log.state_dict(self.step),
        }
        self.checkpoints.save(self.step, state, best=self.best.step)

    def _check_unchanged(self, state: dict[str, Any]) -> None:
        missing = [name for name in ("best", "scheduler") if name not in state | state["parts"]]
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
        if state["fingerprint"] != self.parts.fingerprint:
            raise InputError(
                f"the data that the run was started with ({state['fingerprint'][:12]})",
                f"other data in {self.config.data.source} ({self.parts.fingerprint[:12]})",
                "restore the data, or train anew into another folder",
            )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
