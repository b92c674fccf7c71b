"""What to look at again, and when."""

import math


def rows_due(rho: float, num_rows: int, step: int) -> int:
    """Rows to refresh in step ``step`` (from 0) so that ``rho * num_rows`` a step holds on average.

    After t steps exactly ``ceil(rho * num_rows * t)`` rows have been due, also when that is less
    than one a step: plain ``int(rho * num_rows)`` would then never refresh anything.

    Example:
        >>> [rows_due(0.01, 37, step) for step in range(6)]
        [1, 0, 1, 0, 0, 1]
        >>> sum(rows_due(0.01, 37, step) for step in range(100))
        37
    """

    def due_by(steps: int) -> int:
        return math.ceil(round(rho * num_rows * steps, 6))

    return due_by(step + 1) - due_by(step)
