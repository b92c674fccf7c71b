"""The best evaluation of a run so far, and when to stop waiting for a better one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Best:
    """The best value of one dev measure; higher is better, and only a higher one is an improvement.

    Args:
        measure: its name; None: nothing is followed.
        patience: evaluations in a row without improvement that end a run; 0: it never ends so.
        step: of the best evaluation; None before the first.
        value: of the measure there.
        waited: evaluations since.
    """

    measure: str | None
    patience: int = 0
    step: int | None = None
    value: float | None = None
    waited: int = 0

    def update(self, step: int, measured: Mapping[str, float]) -> bool:
        """Take in an evaluation; whether it is the best."""
        if self.measure is None:
            return False
        value = measured[self.measure]
        improved = self.value is None or value > self.value
        if improved:
            self.step, self.value, self.waited = step, value, 0
        else:
            self.waited += 1
        return improved

    @property
    def is_waited_out(self) -> bool:
        """Whether no better one is waited for any longer."""
        return 0 < self.patience <= self.waited

    def figures(self) -> dict[str, float | int]:
        """What the log tells when a run is stopped early."""
        return {
            "best_step": self.step or 0,
            f"best_{self.measure}": self.value or 0.0,
            "evaluations_since": self.waited,
        }

    def state_dict(self) -> dict[str, Any]:
        """What was found; the settings are the config's."""
        return {key: asdict(self)[key] for key in ("step", "value", "waited")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        self.step, self.value, self.waited = state["step"], state["value"], state["waited"]

    def __str__(self) -> str:
        """Example: ``dev mrr10 0.5123 at step 400``."""
        return f"dev {self.measure} {self.value:.4f} at step {self.step}"
