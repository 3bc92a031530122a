"""Keras models of invertible residual blocks."""

# Says what exported models hold.
from tf_iresnet.models import signatures as signatures
from tf_iresnet.models.architecture import IResNet
from tf_iresnet.models.classifier import IResNetClassifier
from tf_iresnet.models.flow import IResNetFlow
from tf_iresnet.models.hybrid import IResNetHybrid
from tf_iresnet.models.training.skipping import SkippedStepsError

__all__ = ["IResNet", "IResNetClassifier", "IResNetFlow", "IResNetHybrid", "SkippedStepsError"]
