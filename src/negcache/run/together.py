"""What the processes of a run do as one: the first looks and writes, all go on or none."""

from collections.abc import Callable
from typing import Any, TypeVar

from negcache.distributed import Mesh
from negcache.errors import InputError

Found = TypeVar("Found")


def on_first(mesh: Mesh, look: Callable[[], Found]) -> Found:
    """What the first process finds, for all; what it refuses, all refuse."""
    found, refused = None, None
    if mesh.rank == 0:
        try:
            found = look()
        except InputError as error:
            refused = error.expected, error.got, error.remedy
    found, refused = mesh.objects((found, refused))[0]
    if refused is not None:
        raise InputError(*refused)
    return found  # pyright: ignore[reportReturnType]


def check_alike(mesh: Mesh, **told: Any) -> None:
    """Refuse processes that differ in what all must have alike: config, data, code.

    Raises:
        InputError: it names the processes and what they differ in.
    """
    first, *others = mesh.objects(told)
    for rank, other in enumerate(others, start=1):
        for what, value in other.items():
            if value != first[what]:
                raise InputError(
                    f"the same {what} on every process",
                    f"{value} on process {rank}, {first[what]} on process 0",
                    "start all from the same files and the same version",
                )
