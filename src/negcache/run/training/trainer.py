"""A small loop on Hugging Face Accelerate that can be stopped at any moment."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from accelerate import Accelerator

from negcache.errors import InputError
from negcache.run.progress import bar, track
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
        self.step = 0
        self._log_state: dict[str, Any] | None = None

    def restore(self, *, fall_back: bool = False) -> None:
        """Go on from the newest checkpoint, if there is one.

        Args:
            fall_back: take the one before, where the newest is damaged.
        """
        state = self.checkpoints.load(fall_back=fall_back)
        if state is None:
            return
        self._check_unchanged(state)
        self.parts.load_state_dict(state["parts"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self._log_state = state["step"], state["log"]

    def run(self) -> int | None:
        """Train to the last step; returns the number of the signal that stopped it, if any."""
        config = self.config
        with ExitStack() as stack:
            log = stack.enter_context(RunLog(self.folder, self._log_state))
            if self.step == 0:
                self.parts.loss_fn.fill_cache(progress=track("filling the cache"))
            received = stack.enter_context(stop_signals())
            advance = stack.enter_context(bar("training", self.step, config.steps))
            while self.step < config.steps:
                advance(self._one_step(log))
                last = self.step == config.steps
                if last or _due(self.step, config.log_every):
                    log.flush(self.step, self.order.place(self._position - 1)[0])
                if self.parts.evaluate and _due(self.step, config.eval_every):
                    log.write(self.step, self.parts.evaluate(), "dev/")
                stop = list(received)  # read once: a signal during the save waits for the next step
                if last or stop or _due(self.step, config.checkpoint_every):
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
        reports = train_step(self.parts, batches, self.accelerator, self.step + 1)
        self.step += 1
        log.add(reports, perf_counter() - start)
        return reports[-1].loss

    def _save(self, log: RunLog) -> None:
        epoch, batch = self.order.place(self._position)
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "position": {"epoch": epoch, "batch": batch},
            "config": self.config.model_dump(),
            "fingerprint": self.parts.fingerprint,
            "parts": self.parts.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "log": log.state_dict(self.step),
        }
        self.checkpoints.save(self.step, state)

    def _check_unchanged(self, state: dict[str, Any]) -> None:
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
