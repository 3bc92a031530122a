"""Operator norms of dense and convolution kernels: estimates from below, bounds from above.

Power iteration approaches the norm from below and is used to normalise; only the bounds,
computed from the kernel alone, prove anything.
"""

from tf_iresnet.norms.convolution import conv_norm_bound
from tf_iresnet.norms.dense import dense_norm_bound
from tf_iresnet.norms.estimates import power_iteration

__all__ = ["conv_norm_bound", "dense_norm_bound", "power_iteration"]
