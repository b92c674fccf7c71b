"""What a model folder says of itself, checked before anything of it is loaded.

A folder is data: no code of it is run, and no pickle of it is read.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from negcache.errors import InputError

TRUSTED: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""How everything is loaded from a folder."""

OURS = "sentence_transformers."
"""Where the classes of modules are; any other is code that the folder chose."""

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def module_folders(folder: Path) -> list[Path]:
    """Folders of the modules of a model, the transformer first; of a plain encoder its own.

    Raises:
        InputError: ``modules.json`` is no list of modules, one of them is of a class that is not in
            sentence-transformers, or elsewhere than in the folder, or has pickled weights alone, or
            an attention from the hub.
    """
    listed = folder / "modules.json"
    found = [folder]
    if listed.is_file():
        found = [folder / _checked(listed, module) for module in _modules(listed)]
    for part in found:
        _refuse_pickles(part)
        for config in ("config.json", "sentence_bert_config.json"):
            if (part / config).is_file():
                _refuse_kernels(part / config, read_json(part / config))
    return found


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"JSON in {path}", str(error), "restore the file") from error


@contextmanager
def loading(folder: Path, what: str) -> Iterator[None]:
    """Whatever a library raises over the files of a folder becomes one clear error."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of any of three libraries, and of what they call
        told = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(what, f"{folder}: {told}", "check the folder") from error


def _modules(listed: Path) -> list[Any]:
    found = read_json(listed)
    if not isinstance(found, list) or not found:
        raise _bad(listed, "no list of them")
    return found


def _checked(listed: Path, module: Any) -> str:
    """The path of a module inside the folder."""
    keys = ("name", "path", "type")
    if not isinstance(module, dict) or not all(isinstance(module.get(key), str) for key in keys):
        raise _bad(listed, "an entry without them")
    kind, path = module["type"], PurePosixPath(module["path"])
    if not kind.startswith(OURS):
        raise InputError(
            f"modules of sentence-transformers in {listed}",
            f"type {kind!r}, which would run code that the folder chose",
            "take a model of ready-made modules",
        )
    if path.is_absolute() or ".." in path.parts or "\\" in module["path"]:
        raise InputError(
            f"paths inside the folder in {listed}", repr(module["path"]), "restore the file"
        )
    return module["path"]


def _refuse_pickles(folder: Path) -> None:
    names = sorted(path.name for path in folder.glob("*") if path.is_file())
    pickled = [name for name in names if name.endswith(PICKLED) and name != "training_args.bin"]
    if pickled and not any(name.endswith(".safetensors") for name in names):
        raise InputError(
            "weights as safetensors, from which no code can be run",
            f"{folder / pickled[0]}, a pickle",
            "save the model anew: model.save_pretrained(folder), where you trust it",
        )


def _refuse_kernels(path: Path, values: Any) -> None:
    """``attn_implementation = "owner/name"`` is code from the hub."""
    named = values.items() if isinstance(values, dict) else ()
    for key, value in named:
        if key.endswith("attn_implementation") and "/" in json.dumps(value):
            raise InputError(
                f"an attention of transformers itself in {path}",
                f"{key} {value!r}, which would run code from elsewhere",
                f"take {key} out of the file",
            )
        _refuse_kernels(path, value)


def _bad(listed: Path, what: str) -> InputError:
    return InputError(
        f"modules with name, type and path in {listed}", what, "restore the file from the model"
    )
