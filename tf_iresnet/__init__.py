"""Invertible residual networks: Keras 3 layers and TensorFlow Probability bijectors."""

from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
    from tf_iresnet.certificate import certify as certify
    from tf_iresnet.certificate import rescale as rescale

__version__ = "0.1.0"

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"tf_iresnet needs Keras' TensorFlow backend, but Keras runs on "
        f"{keras.backend.backend()!r}: set the environment variable KERAS_BACKEND=tensorflow "
        "before the first import of keras."
    )


def __getattr__(name: str) -> Any:
    """Imports `certify` and `rescale` when first asked for, since all layers come with them."""
    if name in ("certify", "rescale"):
        from tf_iresnet import certificate

        globals()[name] = getattr(certificate, name)
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
