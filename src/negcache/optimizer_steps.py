"""The one signal that every trainer gives: an optimizer has stepped."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from negcache.errors import InputError

PATIENCE, LONGER = 100, 1000
"""Training passes without a single step after which the user is told; and where an optimizer is
followed, which may gather many passes for a step."""


class OptimizerSteps:
    """Follows an optimizer, and counts what passes between its steps.

    Right under gradient accumulation, where fewer steps than passes are made, and under a
    ``GradScaler``, which skips the steps whose gradients overflowed. A copy follows nobody.
    """

    def __init__(self) -> None:
        self._handle: RemovableHandle | None = None
        self._passes: int | None = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"_handle": None, "_passes": self._passes}

    @property
    def followed(self) -> bool:
        """Whether an optimizer is followed that is still there."""
        return self._handle is not None and self._handle.hooks_dict_ref() is not None

    def follow(self, optimizer: Any, stepped: Callable[[], None]) -> None:
        """Call ``stepped`` after each step of this optimizer, and of this one alone.

        Args:
            optimizer: a ``torch.optim.Optimizer``, or what Accelerate or Lightning made of it.

        Raises:
            InputError: it is no optimizer.
        """
        while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
            optimizer = inner
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InputError(
                "a torch.optim.Optimizer", type(optimizer).__name__, "pass the optimizer itself"
            )

        def after(optimizer: Any, _args: Any, _kwargs: Any) -> None:
            overflow = getattr(optimizer, "found_inf", None)  # fused ones skip inside their step
            if overflow is None or not bool(overflow):
                stepped()

        if self._handle is not None:
            self._handle.remove()
        self._handle = optimizer.register_step_post_hook(after)

    def passed(self) -> None:
        """A training pass was made; many of them without any step end in a warning, once."""
        if self._passes is None:
            return
        self._passes += 1
        if self._passes < (LONGER if self.followed else PATIENCE):
            return
        remedy = (
            "The optimizer that it follows has made no step: did the trainer make another? Call "
            "loss_fn.step_with(optimizer) with the one that steps."
            if self.followed
            else "Call loss_fn.step_with(optimizer) once, or loss_fn.step() after each "
            "optimizer.step()."
        )
        warnings.warn(
            f"The loss was trained {self._passes} times and never stepped: its store is not "
            f"refreshed. {remedy}",
            stacklevel=6,  # past nn.Module's two, to the line that calls the loss
        )
        self._passes = None

    def stepped(self) -> None:
        """A step was made: nobody needs to be told."""
        self._passes = None
