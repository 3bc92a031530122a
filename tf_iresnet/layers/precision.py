"""In which dtypes layers of bounded norm and invertible layers work."""

from __future__ import annotations

import keras

_WIDE = ("float32", "float64")


def check_policy(layer: keras.layers.Layer) -> None:
    """Refuses a dtype policy that keeps weights and state in half precision.

    Norms, log-determinants and inverses are sums and iterations, for which half precision is too
    coarse. In training branches may compute in it.

    Args:
      layer: a layer, or a model, whose policy is set.

    Raises:
      ValueError: if its weights are narrower than float32.

    Example:
    >>> check_policy(keras.layers.Dense(2, dtype="mixed_bfloat16"))
    """
    if layer.variable_dtype not in _WIDE:
        policy = layer.dtype_policy.name
        raise ValueError(
            f"dtype must keep the weights of {type(layer).__name__} in float32 or float64, since "
            f"norms, log-determinants and inverses need it, got {policy!r}; use "
            f'"mixed_{layer.compute_dtype}" to compute in half precision.'
        )
