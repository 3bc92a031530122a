"""What is proven of a model: certificates of invertibility, and scaling that makes them hold."""

from tf_iresnet.certificate.proof import certify
from tf_iresnet.certificate.report import Block, Certificate, Inverse
from tf_iresnet.certificate.rescaling import Rescaling, Scaled, rescale
from tf_iresnet.certificate.walk import residual_blocks

__all__ = [
    "Block",
    "Certificate",
    "Inverse",
    "Rescaling",
    "Scaled",
    "certify",
    "rescale",
    "residual_blocks",
]
