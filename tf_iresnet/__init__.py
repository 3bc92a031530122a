"""Invertible residual networks: Keras 3 layers and TensorFlow Probability bijectors."""

from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
    from tf_iresnet.certificate import certify as certify

__version__ = "0.1.0"

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"tf_iresnet needs Keras' TensorFlow backend, but Keras runs on "
        f"{keras.backend.backend()!r}: set the environment variable KERAS_BACKEND=tensorflow "
        "before the first import of keras."
    )


def __getattr__(name: str) -> Any:
    """Imports `certify` when it is first asked for, since all layers come with it."""
    if name == "certify":
        from tf_iresnet.certificate import certify

        globals()[name] = certify
        return certify
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
