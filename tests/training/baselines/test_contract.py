"""The contract of invertible layers, of the baselines' layers."""

from tests.library.layers.test_contract import *  # noqa: F403
from tests.training.baselines.registry import CASES, KINDS

LAYERS = (CASES, KINDS)
