"""The noise behind all draws: training moves its generator on, an evaluation never does."""

import torch

from negcache.shapes import Tensor


class Generators:
    """A generator for training, and a copy of it for each evaluation.

    Args:
        seed: of the generator.
    """

    def __init__(self, seed: int) -> None:
        self.training = torch.Generator().manual_seed(seed)
        self._evaluation: torch.Generator | None = None

    def begin(self, *, evaluation: bool) -> None:
        """An evaluation begins, or is over: its batches share one copy, two evaluations do not."""
        self._evaluation = self.training.clone_state() if evaluation else None

    def of(self, training: bool) -> torch.Generator:
        """What the next draw takes its noise from.

        Args:
            training: in training mode, and with gradient: anything else leaves the run as it is.
        """
        if training:
            self._evaluation = None
            return self.training
        if self._evaluation is None:
            self.begin(evaluation=True)
        assert self._evaluation is not None
        return self._evaluation

    def get_state(self) -> Tensor:
        return self.training.get_state()

    def set_state(self, state: Tensor) -> None:
        """Go on from there; an evaluation under way too."""
        self.training.set_state(state.cpu())
        self._evaluation = None
