"""Initial kernels of layers whose norm is bounded."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from tf_iresnet.arguments import check_by, check_integer, check_real
from tf_iresnet.typing import DTypeLike, InitializerLike, Seed


@keras.saving.register_keras_serializable("tf_iresnet")
class DeltaOrthogonal(keras.initializers.Orthogonal):
    r"""Kernels all of whose singular values are equal: orthogonal at the centre tap, else zero.

    Spectral normalisation divides by the largest singular value. In a random kernel that is about
    twice the gain that typical inputs meet, so a branch of n layers starts with 2^-n of the slope
    that its bound allows. With this kernel it starts with all of it, for every input. Matrices
    that are not square map the smaller side isometrically.

    Args:
      gain: the singular values, above 0.
      seed: as of `keras.initializers.Orthogonal`.

    Raises:
      ValueError: if an argument is out of range; when called, if a shape has no inputs and
        outputs.

    Example:
    >>> kernel = DeltaOrthogonal(seed=0)((3, 3, 4, 4))
    >>> bool(np.allclose(kernel[1, 1] @ tf.transpose(kernel[1, 1]), np.eye(4), atol=1e-5))
    True
    >>> round(float(tf.norm(kernel)), 4)
    2.0

    Source: Xiao, Bahri, Sohl-Dickstein, Schoenholz, Pennington 2018 (Dynamical Isometry and a Mean
    Field Theory of CNNs), section 2.5.
    """

    def __init__(self, gain: float = 1.0, seed: Seed = None) -> None:
        gain = check_real("gain", gain, "must be above 0", lambda value: value > 0)
        if seed is not None and not isinstance(seed, keras.random.SeedGenerator):
            seed = check_integer("seed", seed, None, ", a `keras.random.SeedGenerator` or None")
        super().__init__(gain, seed)

    def __call__(self, shape: Sequence[int], dtype: DTypeLike = None) -> tf.Tensor:
        """Returns a kernel.

        Args:
          shape: spatial sizes, inputs, outputs.
          dtype: floating point.
        """
        shape, name = tuple(shape), keras.backend.standardize_dtype(dtype)
        if len(shape) < 2:
            raise ValueError(f"shape must be spatial sizes, inputs and outputs, got {shape}.")
        # Keras' own factorises in no narrower type.
        wide = name if name == "float64" else "float32"
        matrix = tf.cast(super().__call__(shape[-2:], dtype=wide), name)
        # The tap of "same" padding that meets the pixel itself.
        around = [[(taps - 1) // 2, taps // 2] for taps in shape[:-2]]
        matrix = tf.reshape(matrix, [1] * len(around) + list(shape[-2:]))
        return tf.pad(matrix, [*around, [0, 0], [0, 0]])


_OURS = {"delta_orthogonal": DeltaOrthogonal}


def get(identifier: InitializerLike | None) -> keras.initializers.Initializer | None:
    """Returns a new initializer by its name, "delta_orthogonal" or one of Keras', or as given.

    Args:
      identifier: a name, a configuration, an initializer or a function.

    Raises:
      ValueError: if there is none of that name.

    Example:
    >>> type(get("delta_orthogonal")).__name__
    'DeltaOrthogonal'
    """
    if isinstance(identifier, str) and identifier in _OURS:
        return _OURS[identifier]()
    return keras.initializers.get(identifier)


def check_initializer(name: str, identifier: object) -> keras.initializers.Initializer:
    """Returns what `get` makes of an argument.

    Args:
      name: of the argument.
      identifier: as of `get`.

    Raises:
      ValueError: if it is no initializer, or None.
    """
    due = 'an initializer: "delta_orthogonal", or one of Keras such as "glorot_uniform"'
    made = check_by(name, identifier, get, due)
    if made is None:
        raise ValueError(f"{name} must be {due}, got None.")
    return made


def check_name(name: object) -> str:
    """Returns an argument that names an initializer, of which every layer makes its own.

    No initializer is made here: that would consume random numbers.

    Args:
      name: "delta_orthogonal", or the name of one of Keras' initializers.

    Raises:
      ValueError: if there is no initializer of that name.
    """
    if isinstance(name, str):
        kind = _OURS.get(name) or getattr(keras.initializers, name, None)
        if isinstance(kind, type) and issubclass(kind, keras.initializers.Initializer):
            return name
    raise ValueError(
        'kernel_initializer must be "delta_orthogonal" or the name of one of Keras, such as '
        f'"glorot_uniform", got {name!r}.'
    )
