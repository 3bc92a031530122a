"""Operator norms of dense and convolution kernels: estimates from below, bounds from above.

Estimates by power or Lanczos iterations approach the norm from below. Only the bounds, computed
from the kernel alone, prove anything. Layers are normalised by either.
"""

from tf_iresnet.norms.convolution import conv_norm_bound
from tf_iresnet.norms.dense import dense_norm_bound
from tf_iresnet.norms.estimates import power_iteration

__all__ = ["conv_norm_bound", "dense_norm_bound", "power_iteration"]
