"""Commands that run in the process of the tests share its strategies."""

from tests.library.mirrored import mirrored
from training.workers import devices

devices._mirrored = mirrored
