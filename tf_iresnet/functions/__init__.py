r"""Differentiable functions of (parameters, x) with derivatives written out.

A residual branch is evaluated many times at one point: its value, then J v and J^T v for the
terms of a power series, then one gradient of <upstream, g(x)> + sum <c, J t>. A `Function`
offers just these: `linearize`, `jvp`, `vjp` and `gradient`. What depends on the point alone (the
residuals) or on a tangent alone is computed once. Functions are pure: parameters are arguments,
nothing is stored.
"""

from tf_iresnet.functions.affine import Affine
from tf_iresnet.functions.chain import Chain
from tf_iresnet.functions.function import Function, Parameters, Products, Residuals
from tf_iresnet.functions.pointwise import (
    Elementwise,
    Elu,
    Pointwise,
    ScaledSwish,
    Silu,
    softplus,
)
from tf_iresnet.functions.taped import Taped

__all__ = [
    "Affine",
    "Chain",
    "Elementwise",
    "Elu",
    "Function",
    "Parameters",
    "Pointwise",
    "Products",
    "Residuals",
    "ScaledSwish",
    "Silu",
    "Taped",
    "softplus",
]
