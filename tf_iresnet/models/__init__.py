"""Keras models of invertible residual blocks."""

from tf_iresnet.models.classifier import IResNetClassifier
from tf_iresnet.models.flow import IResNetFlow

__all__ = ["IResNetClassifier", "IResNetFlow"]
