"""JSON files that are complete at every moment, whatever interrupts their writing."""

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from training.errors import RunError


def write_json(path: Path, content: Any) -> None:
    """Writes a file beside its place, then moves it there in one step.

    Args:
        path: where to.
        content: what `json` can hold; numbers that are not finite become null.

    Raises:
        RunError: the folder cannot be written to.
    """
    text = json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RunError(
            f"{str(path)!r} cannot be written ({error.strerror}); free the disk, or choose a "
            "folder you may write to"
        ) from error


def read_json(path: Path) -> Any:
    """Reads a file written by `write_json`.

    Args:
        path: where from.

    Returns:
        Its content.

    Raises:
        RunError: it is not there, cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{str(path)!r} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RunError(
            f"{str(path)!r} is damaged ({error}); restore it, or choose another folder"
        ) from error


def new_file(path: str | os.PathLike[str]) -> Path:
    """Prepares the place of a file that is going to be written.

    Args:
        path: where to.

    Returns:
        The path; its folder exists.

    Raises:
        RunError: there is a folder in that place, or its own folder cannot be written to.
    """
    place = Path(path)
    if place.is_dir():
        raise RunError(f"{str(path)!r} is a folder; name a file in it")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{str(path)!r} cannot be written ({error.strerror})") from error
    if not os.access(place.parent, os.W_OK):
        raise RunError(f"{str(place.parent)!r} cannot be written to; give another --out")
    return place


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
