"""Invertible residual networks: Keras 3 layers and TensorFlow Probability bijectors.

Importing the package registers all of its classes with Keras, so that `keras.saving.load_model`
reads what they wrote. ``tf_iresnet.bijectors`` is imported when it is first asked for, since
TensorFlow Probability comes with it.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING:
    from tf_iresnet import bijectors as bijectors

__version__ = "0.1.0"

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"tf_iresnet needs Keras' TensorFlow backend, but Keras runs on "
        f"{keras.backend.backend()!r}: set the environment variable KERAS_BACKEND=tensorflow "
        "before the first import of keras."
    )

from tf_iresnet import export, fixed_point, initializers, layers, log_det, models, norms
from tf_iresnet.certificate import certify, rescale

_ON_USE = ("bijectors",)

__all__ = [
    "bijectors",
    "certify",
    "export",
    "fixed_point",
    "initializers",
    "layers",
    "log_det",
    "models",
    "norms",
    "rescale",
]


def __getattr__(name: str) -> ModuleType:
    """Imports what is imported on use."""
    if name in _ON_USE:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_USE})
