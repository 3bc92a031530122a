"""Whether a log-determinant is asked for by Markov chain Monte Carlo, which needs exact ones."""

from __future__ import annotations

import inspect

_KERNELS = (
    "tensorflow_probability.python.mcmc",
    "tensorflow_probability.python.experimental.mcmc",
)


def in_transition_kernel() -> bool:
    """Whether TFP's transition kernels are among the callers.

    They ask through `tfb.Invert`, `tfb.Chain` or a distribution by the calls that everybody
    makes, without a word on what for: their code on the call stack is the one sign of it. Under
    `tf.function` it is there while the graph is traced.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(_KERNELS):
            return True
        frame = frame.f_back
    return False
