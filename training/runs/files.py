"""Files that are complete at every moment, whatever interrupts their writing."""

import contextlib
import errno
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from training.errors import RunError
from training.typing import Json, PathLike

Writer = Callable[[BinaryIO], object]
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of this disk is used up"}
_OTHER = (errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOENT)
_FREE = "free some of it, then give the same command again"


def write_files(writers: Mapping[Path, Writer]) -> None:
    """Writes files beside their places, then moves all of them there.

    Args:
      writers: what writes each, given an open file.

    Raises:
      RunError: if one cannot be written; then all are as they were.
    """
    with contextlib.ExitStack() as scratch:
        ready = []
        for path, write in writers.items():
            try:
                ready.append((scratch.enter_context(_beside(path, write)), path))
            except OSError as error:
                raise RunError(f"{str(path)!r} cannot be written: {trouble(error)}") from error
        for name, path in ready:
            try:
                os.replace(name, path)
            except OSError as error:
                raise RunError(f"{str(path)!r} cannot be written: {trouble(error)}") from error


@contextlib.contextmanager
def _beside(path: Path, write: Writer) -> Iterator[str]:
    """Writes a file under another name, which does not outlast the context."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        yield name
    finally:
        Path(name).unlink(missing_ok=True)


def write_json(path: Path, content: Json) -> None:
    """Writes a JSON file.

    Args:
      path: where to.
      content: what `json` can hold; numbers that are not finite become null.

    Raises:
      RunError: if the folder cannot be written to.
    """
    write_files({path: as_json(content)})


def as_json(content: Json) -> Writer:
    """Returns a writer of JSON, for `write_files`.

    Args:
      content: what `json` can hold; numbers that are not finite become null.
    """
    text = json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=False)
    return as_text(text + "\n")


def as_text(text: str) -> Writer:
    """Returns a writer of a text, for `write_files`."""
    return lambda file: file.write(text.encode("utf-8"))


def trouble(error: Exception) -> str:
    """Says why something cannot be written, and what to do.

    Args:
      error: of Python, or of TensorFlow, which tells a full disk by its message alone.
    """
    code = _full(error)
    if code is not None:
        return f"{_FULL[code]} ({os.strerror(code)}); {_FREE}"
    text = str(error)  # TensorFlow's message begins with its own files and lines
    known = (os.strerror(code) for code in _OTHER if os.strerror(code) in text)
    reason = getattr(error, "strerror", None) or next(known, None) or first_line(error)
    return f"{reason}; free the disk, or choose a folder you may write to"


def is_full(error: Exception) -> bool:
    """Whether an error, of Python or of TensorFlow, is that of a full disk or a quota."""
    return _full(error) is not None


def first_line(error: Exception) -> str:
    """Returns the first 200 characters of a message's first line, or else the kind of error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def read_json(path: Path) -> Json:
    """Reads a file written by `write_json`.

    Raises:
      RunError: if it is not there, cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{str(path)!r} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RunError(
            f"{str(path)!r} is damaged ({error}); restore it, or choose another folder"
        ) from error


def new_file(path: PathLike) -> Path:
    """Prepares the place of a file that is going to be written, and returns its path.

    Args:
      path: where to; its folder is made.

    Raises:
      RunError: if there is a folder in that place, or its own folder cannot be written to.
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


def _full(error: Exception) -> int | None:
    number, text = getattr(error, "errno", None), str(error)
    return next((code for code in _FULL if code == number or os.strerror(code) in text), None)


def _finite(content: Json) -> Json:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
