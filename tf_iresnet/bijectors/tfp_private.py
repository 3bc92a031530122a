"""All that touches names that TensorFlow Probability keeps private.

`setup.py` bounds TensorFlow Probability by what this was tested with, and
`tests/test_private_names.py` says of each name what breaks when it goes.
"""

from __future__ import annotations

import inspect
from typing import Any

from tensorflow_probability import bijectors as tfb
from tensorflow_probability.python.internal import cache_util

_KERNELS = (
    "tensorflow_probability.python.mcmc",
    "tensorflow_probability.python.experimental.mcmc",
)
_ANSWER = "_tf_iresnet_is_uncached"


class Uncached(tfb.Bijector):
    """A bijector for which TFP's cache finds nothing, nor for any bijector that holds it.

    TFP finds a value by the identity of its argument. It would outlive a change of the weights,
    hide them from a gradient tape and freeze a stochastic log-determinant. What a `tfb.Chain`
    remembers is its own, whatever its parts say, so that the cache itself must pass by.
    """


def is_uncached(bijector: tfb.Bijector) -> bool:
    """Whether a bijector is, or holds, an `Uncached` one; found once for each bijector."""
    answer = vars(bijector).get(_ANSWER)
    if answer is None:
        held = (bijector, *bijector.submodules)
        answer = vars(bijector)[_ANSWER] = any(isinstance(part, Uncached) for part in held)
    return answer


class _Cache(cache_util.BijectorCache):
    """TFP's cache, which stores nothing of what `is_uncached`."""

    def _lookup(self, input: Any, forward_name: str, inverse_name: str, **kwargs: Any) -> Any:
        if is_uncached(self.bijector):
            return self._invoke(input, forward_name, kwargs, {})
        return super()._lookup(input, forward_name, inverse_name, **kwargs)

    def _attributes(self, input: Any, fn_name: str, **kwargs: Any) -> dict[str, Any]:
        if is_uncached(self.bijector):
            return {}
        return super()._attributes(input, fn_name, **kwargs)


# In place of the one that all bijectors share; what it holds stays.
tfb.Bijector._cache = _Cache(storage=tfb.Bijector._cache.storage)


def in_transition_kernel() -> bool:
    """Whether TFP's transition kernels are among the callers, which need exact log-determinants.

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
