"""TensorFlow Probability bijectors made of Keras layers."""

from tf_iresnet.bijectors.keras_bijector import KerasBijector

__all__ = ["KerasBijector"]
