"""All code that touches names which TensorFlow Probability keeps private.

`setup.py` bounds TensorFlow Probability by the versions that this was tested with.
`tests/library/root/test_private_names.py` says for each name what breaks when it goes.
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

    TFP finds a cached value by the identity of its argument. The value would outlive a change of
    the weights, hide them from a gradient tape and freeze a stochastic log-determinant. A
    `tfb.Chain` remembers values whatever its parts say, so the cache itself must skip it.
    """


def is_uncached(bijector: tfb.Bijector) -> bool:
    """Says whether a bijector is, or holds, an `Uncached` one; computed once for each bijector."""
    answer = vars(bijector).get(_ANSWER)
    if answer is None:
        held = (bijector, *bijector.submodules)
        answer = vars(bijector)[_ANSWER] = any(isinstance(part, Uncached) for part in held)
    return answer


class _Cache(cache_util.BijectorCache):
    """TFP's cache, which stores nothing for bijectors that are uncached."""

    def _lookup(self, input: Any, forward_name: str, inverse_name: str, **kwargs: Any) -> Any:
        if is_uncached(self.bijector):
            return self._invoke(input, forward_name, kwargs, {})
        return super()._lookup(input, forward_name, inverse_name, **kwargs)

    def _attributes(self, input: Any, fn_name: str, **kwargs: Any) -> dict[str, Any]:
        if is_uncached(self.bijector):
            return {}
        return super()._attributes(input, fn_name, **kwargs)


# The cache that all bijectors share is replaced; its contents are kept.
tfb.Bijector._cache = _Cache(storage=tfb.Bijector._cache.storage)


def in_transition_kernel() -> bool:
    """Says whether a transition kernel of TFP, which needs exact log-determinants, is a caller.

    Transition kernels call a bijector through `tfb.Invert`, `tfb.Chain` or a distribution, as
    everybody does. Their code on the call stack is the only sign of them. Under `tf.function` it is
    there while the graph is traced.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(_KERNELS):
            return True
        frame = frame.f_back
    return False
