"""Processes that call a module together say so first: nobody waits for one that does another thing.

What travels later has to be asked for by all of them alike, or some wait until a time-out.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from negcache.distributed import Mesh, fingerprint
from negcache.errors import InputError

CALLS = ("a refusal", "training", "a pass without gradient", "evaluation", "log_prob", "topk")
"""What a process may be about to do."""


class Meeting:
    """What the processes have told each other before a call.

    Args:
        mesh: of them.

    Attributes:
        rows: of each process.
        steps: the most that any process has seen.
        held: whether they have met.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.rows, self.steps, self.held = mesh, [0] * mesh.size, 0, False

    def tell(self, call: str, setting: int = 0, rows: int = 0, steps: int = 0) -> None:
        """Say what is asked for here, and learn what the others ask for.

        Args:
            call: one of ``CALLS``.
            setting: of the call, which has to be the same everywhere.
            rows: of this process.
            steps: that this process has seen.

        Raises:
            InputError: not all ask for the same, or weights that they share have parted.
        """
        self.held = True
        weight = fingerprint() if self.mesh.size > 1 else 0
        mine = CALLS.index(call), setting, rows, steps, weight
        calls, settings, self.rows, every, weights = self.mesh.each(*mine)
        self.steps = max(every)
        if call == CALLS[0]:
            return  # what was refused here is raised here
        if 0 in calls:
            raise InputError(
                "a batch that no process refuses",
                f"a refusal on process {calls.index(0)}",
                "see what that process says",
            )
        if len({*zip(calls, settings, strict=True)}) > 1:
            said = (f"{CALLS[each]} on process {rank}" for rank, each in enumerate(calls))
            raise InputError(
                "the same call, with the same settings, on every process",
                f"{', '.join(said)}; settings {settings}",
                "a table that is dealt out is trained, evaluated and searched by all together",
            )
        if len({*weights} - {0}) > 1:
            raise InputError(
                "weights that are equal on all processes",
                "others on each: gradients of what all share were scaled, or a step was skipped, "
                "by each in its own way",
                "clip with negcache.clip_grad_norm_(model, max_norm): torch's own finds the norm "
                "of the classes here; take bfloat16 in place of fp16 with a GradScaler",
            )


@contextmanager
def meeting(mesh: Mesh) -> Iterator[Meeting]:
    """Around what may be refused before all meet: the others then hear of it."""
    found = Meeting(mesh)
    try:
        yield found
    except Exception:
        if not found.held:
            found.tell(CALLS[0])
        raise
