"""SIGTERM as a request, which training grants at the end of a step."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Request:
    """Whether the process was asked to end."""

    def __init__(self) -> None:
        self.made = False


@contextlib.contextmanager
def termination() -> Iterator[Request]:
    """Turns SIGTERM, while it lasts, into a request.

    Yields:
        The request; where signals cannot be handled, outside of the main thread, it stays unmade.
    """
    request = Request()

    def note(*_: object) -> None:
        request.made = True

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
