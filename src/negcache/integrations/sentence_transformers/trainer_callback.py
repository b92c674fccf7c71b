"""What a trainer must do for the loss: step it, save it beside each checkpoint, restore it."""

import hashlib
import os
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from negcache.distributed import Mesh
from negcache.errors import InputError
from negcache.packing import add_up, from_bytes, to_bytes
from negcache.stores.among_processes import check_processes

if TYPE_CHECKING:
    from negcache.integrations.sentence_transformers.loss import CorpusSoftmaxLoss

TOWER = "item_tower."
"""Where the model stands in the loss: the trainer saves it."""
_STEPPED: WeakKeyDictionary[Any, dict[str, "CorpusSoftmaxLoss"]] = WeakKeyDictionary()
"""Of each optimizer the losses that step with it, by the file they write."""


class CorpusSoftmaxCallback(TrainerCallback):
    """Keeps a ``CorpusSoftmaxLoss`` in step with its trainer; ``loss.callback()`` makes it.

    Args:
        loss: the trainer's.
        resume_from: the checkpoint that is resumed, where it lies outside ``output_dir``; it is
            taken at its word.
    """

    def __init__(self, loss: "CorpusSoftmaxLoss", resume_from: str | Path | None = None) -> None:
        self.loss = loss
        self.resume_from = None if resume_from is None else Path(resume_from)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Follow the optimizer, restore a resumed run, encode what is not stored yet.

        Raises:
            InputError: the checkpoint lacks the loss' state, or it is of another run; the trainer
                has another prompt for items than the loss, or two losses of the same pairs; or the
                loss was built before the processes met, which training arguments make them do.
        """
        softmax = self.loss.softmax
        if softmax.store is not None:
            check_processes(softmax.store, softmax.parameters(), args.world_size)
        _check_prompts(getattr(args, "prompts", None), self.loss)
        _check_one_each(self.loss, kwargs["optimizer"])
        self.loss.softmax.step_with(kwargs["optimizer"])
        if state.global_step > 0:
            folder = self.resume_from or _checkpoint(args, state)
            load_state(self.loss, folder, check_weights=self.resume_from is None)
        hidden = args.disable_tqdm or Mesh.now().rank > 0
        bar = partial(tqdm, desc="Encoding the corpus", disable=hidden)
        self.loss.softmax.fill_cache(progress=bar)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The next evaluation draws as this one did: the trainer never calls ``loss.eval()``."""
        self.loss.softmax.generators.begin(evaluation=False)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the loss' state into the new checkpoint: every process that of its rows."""
        mesh = Mesh.now()
        mesh.objects(None)  # the first has made the folder
        if args.should_save or mesh.rank > 0:
            save_state(self.loss, _checkpoint(args, state))
        mesh.objects(None)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Where the trainer has loaded the best model, what the loss remembered of it.

        Where that cannot be, a warning: nothing of the run is lost.
        """
        if not args.load_best_model_at_end or state.best_model_checkpoint is None:
            return
        try:
            load_state(self.loss, Path(state.best_model_checkpoint))
        except InputError as error:
            warnings.warn(f"The loss keeps the state of the last step. {error}", stacklevel=2)


def state_file(loss: "CorpusSoftmaxLoss") -> str:
    """What stands beside each checkpoint: a file for each loss of a trainer, by its pairs.

    Of several processes each writes one, with the rows that it holds.
    """
    mesh = Mesh.now()
    mine = f"-{mesh.rank}-of-{mesh.size}" if mesh.size > 1 else ""
    return f"{_stem(loss)}{mine}.safetensors"


def _stem(loss: "CorpusSoftmaxLoss") -> str:
    return f"loss_state-{loss.pairs.tag:08x}"


def save_state(loss: "CorpusSoftmaxLoss", folder: Path) -> Path:
    """Write what the loss remembers beside the weights, whole or not at all."""
    own = {name: value.contiguous() for name, value in _own_state(loss).items()}
    path = folder / state_file(loss)
    part = path.with_name(f".{path.name}.part")
    save_file(own, part, {"weights": _digest(loss.model)})
    os.replace(part, path)
    return path


def load_state(loss: "CorpusSoftmaxLoss", folder: Path, *, check_weights: bool = True) -> None:
    """Restore what ``save_state`` wrote.

    Args:
        check_weights: whether the model must have the weights that it had then.

    Raises:
        InputError: no such state, or that of other pairs or weights.
    """
    paths = sorted(folder.glob(f"{_stem(loss)}*.safetensors"))
    path = paths[0] if paths else folder / f"{_stem(loss)}.safetensors"
    _check_there(path)
    with safe_open(path, "pt") as file:
        told = file.metadata()
    if check_weights and told["weights"] != _digest(loss.model):
        raise InputError(
            f"the weights that {path} was saved with",
            "a model with others",
            "name the checkpoint that is resumed: loss.callback(resume_from=...)",
        )
    weights = loss.softmax.item_tower.state_dict(prefix=TOWER)
    states = [load_file(each) for each in paths]
    own = add_up([from_bytes(state["_extra_state"]) for state in states])
    loss.softmax.load_state_dict(weights | states[0] | {"_extra_state": to_bytes(own)})


def _check_there(path: Path) -> None:
    """The state of this very loss. Raises InputError."""
    if path.is_file():
        return
    others = sorted(each.name for each in path.parent.glob("loss_state-*.safetensors"))
    if others:
        raise InputError(
            f"a checkpoint of the same corpus and queries with the same positives, {path.name}",
            f"one of others, {others} in {path.parent}",
            "build the pairs from the same data, in the same order; and give the trainer the "
            "callback of every loss",
        )
    raise InputError(
        f"the loss' own state, {path.name}, in the checkpoint that is resumed",
        f"none in {path.parent}",
        "resume from a checkpoint that was saved with loss.callback(); name one that lies "
        "elsewhere, loss.callback(resume_from=...)",
    )


def _check_one_each(loss: "CorpusSoftmaxLoss", optimizer: Any) -> None:
    """No two losses of one trainer write the same file. Raises InputError."""
    file = state_file(loss)
    if _STEPPED.setdefault(optimizer, {}).setdefault(file, loss) is not loss:
        raise InputError(
            "one loss for the same pairs in a trainer",
            f"two, whose states would be one file, {file}",
            'let one stand for several data sets, loss={"a": loss, "b": loss}, with one callback',
        )


def _own_state(loss: "CorpusSoftmaxLoss") -> dict[str, torch.Tensor]:
    """All but the model, which the trainer saves."""
    state = loss.softmax.state_dict()
    return {name: value for name, value in state.items() if not name.startswith(TOWER)}


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder that a trainer writes at this step."""
    return Path(args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _digest(model: nn.Module) -> str:
    """A checksum of the weights."""
    found = hashlib.sha256()
    for value in model.state_dict().values():
        if isinstance(value, torch.Tensor):
            flat = value.detach().cpu().contiguous().flatten()
            found.update(flat.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _check_prompts(prompts: Any, loss: "CorpusSoftmaxLoss") -> None:
    """The trainer's prompts are for queries; those of items are the loss' own."""
    other = set(_prompts_for(loss.pairs.positive_column, prompts)) - {loss.prompt}
    if other:
        raise InputError(
            f"the loss' prompt for items, {loss.prompt!r}, in the trainer's prompts",
            f"{sorted(other)}",
            f"CorpusSoftmaxLoss(..., prompt={min(other)!r})",
        )
    wanted = loss.query_prompt
    if wanted and not _prompts_for(loss.pairs.query_column, prompts):
        warnings.warn(
            f"The model has the prompt {wanted!r} for queries, but the trainer puts none before "
            f"them: its prompts={{{loss.pairs.query_column!r}: {wanted!r}}} would.",
            stacklevel=2,
        )


def _prompts_for(column: str, prompts: Any) -> list[str]:
    """What a trainer puts before the texts of a column; in any of several data sets."""
    if isinstance(prompts, str):
        return [prompts]
    found = []
    for name, value in (prompts or {}).items():
        if isinstance(value, dict):
            found += _prompts_for(column, value)
        elif name == column:
            found.append(value)
    return found
