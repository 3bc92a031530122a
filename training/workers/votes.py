"""When training ends early: the request of one process, agreed on by all that train together."""

import time
from collections.abc import Callable

from training.workers.devices import Devices
from training.workers.signals import Request


class Vote:
    """Whether training ends after a step, with the same answer in every process.

    A process that trains alone ends as soon as it is asked to. Several, which wait for each other
    in every step, have to end after the same one. They vote about once a second of training. In a
    vote they add up who was asked to end, and how long the steps since the last vote took. The sum
    is exact, so all of them draw from it the same step for the next vote. Steps between two votes
    at most double, so that one odd measurement delays none for long.

    Args:
      request: asks this process to end.
      devices: sums over all processes.
      seconds: how long a request may wait, beside the step it comes in.
      clock: tells the time in seconds.
    """

    def __init__(
        self,
        request: Request,
        devices: Devices,
        seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request = request
        self._devices = devices
        self._seconds = seconds
        self._clock = clock
        self._agreed = False
        self._gap = 1
        self._next = 1
        self._last = 0.0

    @property
    def ends(self) -> bool:
        """Whether training ends: of several processes, what they agreed on at the last vote."""
        return self._request.made if self._devices.workers == 1 else self._agreed

    def begin(self, step: int) -> None:
        """Starts to count, before the next step.

        Args:
          step: the number of steps done, the same in every process.
        """
        self._gap, self._next, self._last = 1, step + 1, self._clock()

    def after(self, step: int) -> bool:
        """Votes, if it is time to, and says whether training ends.

        Every process has to call it after every step.

        Args:
          step: the number of steps done.
        """
        if self._devices.workers > 1 and step >= self._next:
            now = self._clock()
            microseconds = round(1e6 * (now - self._last))
            asked, spent = self._devices.summed([float(self._request.made), microseconds])
            self._agreed = asked > 0
            # `spent` includes what came between steps, as validation: the next vote comes sooner.
            rate = self._gap * self._devices.replicas / max(spent, 1.0)
            self._gap = max(1, min(2 * self._gap, int(1e6 * self._seconds * rate)))
            self._next, self._last = step + self._gap, now
        return self.ends
