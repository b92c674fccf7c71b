"""What a run writes down: metrics.jsonl, timings.jsonl, TensorBoard.

Wall-clock seconds have a file of their own, so that metrics.jsonl of a resumed run is the same,
byte for byte, as that of a run that never stopped.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from torch.utils.tensorboard import SummaryWriter

from negcache.errors import InputError
from negcache.run.atomic import writing
from negcache.run.training.step import Stepped

FILES = ("metrics.jsonl", "timings.jsonl")
MEANS = ("loss", "effective_sample_size", "staleness", "masked_hits")
COUNTS = ("encoded_grad", "encoded_nograd")


class RunLog:
    """Adds up step reports and writes a line every so often.

    Args:
        folder: of the run.
        state: as ``state_dict`` gave it at the checkpoint to go on from; None: a new run. Lines
            written after that checkpoint are cut off.
    """

    def __init__(self, folder: Path, state: dict[str, Any] | None = None) -> None:
        state = state or {
            "bytes": {},
            "step": 0,
            "window": {},
            "totals": {},
            "seconds": {},
            "lr": 0.0,
        }
        self.folder, self.window = folder, Counter[str](state["window"])
        self._lr: float = state["lr"]
        self.totals, self.seconds = Counter[str](state["totals"]), Counter[str](state["seconds"])
        with writing(folder):
            self._files = {
                name: _open_cut(folder / name, state["bytes"].get(name, 0)) for name in FILES
            }
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=state["step"] + 1)

    def add(self, step: Stepped, wall: float) -> None:
        """Take in one optimizer step that took ``wall`` seconds."""
        self._lr = step.lr
        if step.grad_norm is not None:
            self.window.update({"grad_norm": step.grad_norm, "grad_norms": 1})
        for report in step.reports:
            self.window.update({name: getattr(report, name) for name in COUNTS})
            means = {name: getattr(report, name) for name in MEANS}  # NaN: there was none
            for name in [name for name, value in means.items() if not math.isnan(value)]:
                self.window.update({name: means[name], f"reports of {name}": 1})
            self.window.update({f"sampler/{name}": x for name, x in report.sampler.items()})
            self.totals.update({name: getattr(report, name) for name in COUNTS})
            self.seconds.update(report.seconds)
        self.window.update({"steps": 1, "reports": len(step.reports)})
        self.seconds.update({"wall": wall})

    def add_fill(self, before: int, wall: float) -> None:
        """Take in a store that has been filled.

        Args:
            before: items that earlier processes had encoded for it.
            wall: seconds of this one.
        """
        for counts in (self.window, self.totals):
            counts.update({"encoded_nograd": before})
        self.seconds.update({"wall": wall, "fill": wall})

    def flush(self, step: int, epoch: int) -> None:
        """Write the last step's rate, means since the last flush, counts since the start."""
        own = sorted(name for name in self.window if name.startswith("sampler/"))
        values: dict[str, float | int] = {name: self._mean(name) for name in MEANS}
        values |= {name: self.window[name] / self.window["reports"] for name in own}
        for name in COUNTS:
            values[f"{name}_per_step"] = self.window[name] / self.window["steps"]
            values[f"{name}_total"] = self.totals[name]
        values["lr"] = self._lr
        if self.window["grad_norms"]:
            values["grad_norm"] = self.window["grad_norm"] / self.window["grad_norms"]
        self._write("metrics.jsonl", {"step": step, "epoch": epoch}, values)
        self._write("timings.jsonl", {"step": step}, dict(self.seconds), prefix="seconds/")
        self.window.clear()

    def _mean(self, name: str) -> float:
        """Over the reports that told it."""
        told = self.window[f"reports of {name}"]
        return self.window[name] / told if told else math.nan

    def write(self, step: int, values: Mapping[str, float | int], prefix: str) -> None:
        """Write other measures of this step, such as those of the dev split."""
        self._write("metrics.jsonl", {"step": step}, {f"{prefix}{k}": v for k, v in values.items()})

    def state_dict(self, step: int) -> dict[str, Any]:
        """All that a later process needs to go on with these files."""
        with writing(self.folder):
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
        return {
            "bytes": {name: file.tell() for name, file in self._files.items()},
            "step": step,
            "window": dict(self.window),
            "totals": dict(self.totals),
            "seconds": dict(self.seconds),
            "lr": self._lr,
        }

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for file in (*self._files.values(), self._board):
            with suppress(OSError):  # a full disk; the checkpoint has told of it
                file.close()

    def _write(
        self, name: str, head: dict[str, int], values: Mapping[str, float | int], prefix: str = ""
    ) -> None:
        line = head | {key: _plain(value) for key, value in values.items()}
        with writing(self.folder / name):
            self._files[name].write(json.dumps(line).encode() + b"\n")
            self._files[name].flush()
            for key, value in values.items():
                self._board.add_scalar(prefix + key, value, head["step"])


def _open_cut(path: Path, size: int) -> BinaryIO:
    """The file open for appending, cut back to ``size`` bytes."""
    file = path.open("ab")
    if path.stat().st_size < size:
        raise InputError(
            f"{path} of at least {size} bytes, as the checkpoint knew it",
            f"{path.stat().st_size} bytes",
            "restore the file from a copy",
        )
    file.truncate(size)
    file.seek(size)
    return file


def _plain(value: float | int) -> float | int | None:
    """JSON knows no NaN."""
    return None if math.isnan(value) else value
