"""SIGTERM and Ctrl-C as a request, which training grants at the end of a step."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

_TOLD = b"\ninterrupted: the state is saved at the end of a step; Ctrl-C again ends at once\n"


class Request:
    """Whether the process was asked to end, and whether from the keyboard."""

    def __init__(self) -> None:
        self.made = False
        self.interrupted = False


@contextlib.contextmanager
def termination() -> Iterator[Request]:
    """Turns SIGTERM and SIGINT, while it lasts, into a request.

    A second SIGINT ends the process at once, which files survive: they are complete at every
    moment.

    Yields:
      The request. Outside of the main thread, where signals cannot be handled, it stays unmade.

    Raises:
      KeyboardInterrupt: at the end, if SIGINT made the request.
    """
    request = Request()

    def note(number: int, _: object) -> None:
        request.made = True
        if number == signal.SIGINT and not request.interrupted:
            request.interrupted = True
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            with contextlib.suppress(OSError):  # not by print, which may be what is interrupted
                os.write(1, _TOLD)

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    # What ignores SIGINT, as the shell's background jobs do, goes on ignoring it.
    handled = [number for number, old in before.items() if old is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number in handled:
            signal.signal(number, before[number] or signal.SIG_DFL)
    if request.interrupted:
        raise KeyboardInterrupt
