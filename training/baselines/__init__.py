"""Flows to compare with: NICE, Real NVP, Glow, FFJORD and MAF."""

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

__all__ = [
    "ARCHITECTURES",
    "FFJORD",
    "MAF",
    "NICE",
    "Architecture",
    "BaselineFlow",
    "Glow",
    "RealNVP",
]
