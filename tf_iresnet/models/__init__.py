"""Keras models of invertible residual blocks."""

from tf_iresnet.models.classifier import IResNetClassifier
from tf_iresnet.models.flow import IResNetFlow
from tf_iresnet.models.hybrid import IResNetHybrid

__all__ = ["IResNetClassifier", "IResNetFlow", "IResNetHybrid"]
