"""Keras layers: spectral normalisation, 1-Lipschitz activations and invertible layers."""

import tf_iresnet.layers.known  # noqa: F401  (registers what is known of them)
from tf_iresnet.layers.activations import CLipSwish, LipSwish, MaxMin, SmoothActivation
from tf_iresnet.layers.actnorm import ActNorm
from tf_iresnet.layers.branch import SpectralBranch
from tf_iresnet.layers.conditioned import Conditioned
from tf_iresnet.layers.densenet import DenseNetBranch
from tf_iresnet.layers.dequantize import Dequantize
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.multi_scale import MultiScale
from tf_iresnet.layers.padding import InjectivePadding
from tf_iresnet.layers.residual import InvertibleResidual
from tf_iresnet.layers.sequential import InvertibleSequential
from tf_iresnet.layers.spectral import SpectralLayer
from tf_iresnet.layers.spectral_conv import SpectralConv1D, SpectralConv2D, SpectralConv3D
from tf_iresnet.layers.spectral_dense import SpectralDense
from tf_iresnet.layers.squeeze import Squeeze
from tf_iresnet.layers.whitening import Whitening

__all__ = [
    "ActNorm",
    "CLipSwish",
    "Conditioned",
    "DenseNetBranch",
    "Dequantize",
    "InjectivePadding",
    "InvertibleLayer",
    "InvertibleResidual",
    "InvertibleSequential",
    "LipSwish",
    "MaxMin",
    "MultiScale",
    "SmoothActivation",
    "SpectralBranch",
    "SpectralConv1D",
    "SpectralConv2D",
    "SpectralConv3D",
    "SpectralDense",
    "SpectralLayer",
    "Squeeze",
    "Whitening",
]
