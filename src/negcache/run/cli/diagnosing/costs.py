"""Where the time and the memory of a run went: from its own log, and from its state."""

import json
from pathlib import Path
from typing import Any

from negcache.packing import pack
from negcache.run.cli.diagnosing.opening import loss_of
from negcache.run.cli.runs import Run


def seconds_of(folder: Path, step: int) -> dict[str, float]:
    """Wall-clock seconds of each stage up to a step, and of the steps as a whole ("wall")."""
    path, found = folder / "timings.jsonl", dict[str, float]()
    if not path.is_file():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            told = json.loads(line)
        except ValueError:  # cut short by a kill
            break
        if told["step"] > step:
            break
        found = {name: float(value) for name, value in told.items() if name != "step"}
    return found


def bytes_of(run: Run) -> dict[str, int]:
    """Of what the run holds from step to step, by part."""
    parts, loss_fn = run.trainer.parts, loss_of(run)
    towers = {
        id(one): one for module in (parts.query_tower, loss_fn) for one in module.parameters()
    }
    found = {
        "towers": sum(one.numel() * one.element_size() for one in towers.values()),
        "optimizer": _size(parts.optimizer.state_dict()["state"]),
    }
    if loss_fn.store is not None:
        state = dict(loss_fn.store.state_dict())
        found["stored rows"] = _size(state.pop("table", {}))
        found["indexes and the rest of the store"] = _size(state)
    return found


def _size(state: Any) -> int:
    _, tensors = pack(state)
    return sum(one.numel() * one.element_size() for one in tensors.values())
