"""Models to compare with: NICE, Real NVP, Glow, FFJORD and MAF, and ResNet."""

from training.baselines.architectures import (
    ARCHITECTURES,
    FFJORD,
    MAF,
    NICE,
    Architecture,
    Glow,
    RealNVP,
)
from training.baselines.flow import BaselineFlow
from training.baselines.glow_classifier import GlowClassifier
from training.baselines.resnet import ResNet

__all__ = [
    "ARCHITECTURES",
    "FFJORD",
    "MAF",
    "NICE",
    "Architecture",
    "BaselineFlow",
    "Glow",
    "GlowClassifier",
    "RealNVP",
    "ResNet",
]
