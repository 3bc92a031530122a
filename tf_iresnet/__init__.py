"""Invertible residual networks: Keras 3 layers and TensorFlow Probability bijectors."""

import keras

__version__ = "0.1.0"

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"tf_iresnet needs Keras' TensorFlow backend, but Keras runs on "
        f"{keras.backend.backend()!r}: set the environment variable KERAS_BACKEND=tensorflow "
        "before the first import of keras."
    )
