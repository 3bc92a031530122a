"""Preimages under residual blocks in extended precision, from the weights alone."""

import numpy as np

from tests.library.reference import conv_matrix
from tf_iresnet.layers.spectral import SpectralLayer

WIDE = np.longdouble  # 64 bits on x86


def lengths(x):
    return np.sqrt(np.sum(np.square(np.asarray(x, WIDE).reshape(len(x), -1)), axis=1))


class Plain:
    """A built branch's value and Jacobian, from its weights alone, by matrices."""

    def __init__(self, block):
        self.steps = []
        for part in block.branch.parts:
            parameters = [np.asarray(p, np.float64) for p in part.function_parameters()]
            if isinstance(part, SpectralLayer):
                kernel, bias = parameters
                spatial = getattr(part.linear_map, "spatial_shape", ())
                matrix = conv_matrix(kernel, spatial) if spatial else kernel
                bias = np.tile(bias, matrix.shape[1] // len(bias))
                self.steps.append(("affine", matrix.astype(WIDE), bias.astype(WIDE)))
            else:
                kind = getattr(part, "function_name", "lipswish" if parameters else "maxmin")
                self.steps.append((kind, *(p.astype(WIDE) for p in parameters)))

    def __call__(self, x):
        """Returns g(x) in extended precision and J in double, of x [batch, d]."""
        jacobian = np.broadcast_to(np.eye(x.shape[1]), (len(x), x.shape[1], x.shape[1]))
        for kind, *weights in self.steps:
            if kind == "affine":
                x = x @ weights[0] + weights[1]
                jacobian = jacobian @ weights[0].astype(float)
            elif kind == "maxmin":
                pairs = x.reshape(len(x), -1, 2)
                order = np.argsort(-pairs, axis=2, kind="stable")
                order = (order + 2 * np.arange(pairs.shape[1])[:, None]).reshape(x.shape)
                x = np.take_along_axis(x, order, 1)
                jacobian = np.take_along_axis(jacobian, order[:, None], 2)
            else:
                x, slope = _activation(kind, x, *weights)
                jacobian = jacobian * slope.astype(float)[:, None]
        return x, jacobian


def _activation(kind, x, beta=None):
    if kind == "elu":
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0))), np.exp(np.minimum(x, 0))
    if kind == "tanh":
        return np.tanh(x), 1 - np.tanh(x) ** 2
    b = np.log1p(np.exp(beta))
    with np.errstate(over="ignore"):
        gate = 1 / (1 + np.exp(-b * x))
    return x * gate / WIDE(1.1), gate * (1 + b * x * (1 - gate)) / 1.1


def preimage(branch, y, start):
    """Newton's method with residuals in extended precision: x and what is left of them."""
    y = np.asarray(y, WIDE).reshape(len(y), -1)
    x = np.asarray(start, WIDE).reshape(y.shape)
    best, least = x, np.full(len(y), np.inf, WIDE)
    for step in range(40):
        value, jacobian = branch(x)
        residual = x + value - y
        size = lengths(residual)
        better = size < least
        best, least = np.where(better[:, None], x, best), np.where(better, size, least)
        scale = np.maximum(size, np.finfo(float).tiny)[:, None]
        unit = (residual / scale).astype(float)
        update = np.linalg.solve(np.eye(y.shape[1]) + jacobian.transpose(0, 2, 1), unit[..., None])
        # Kinks may send Newton's method around: then a Picard step.
        x = x - np.where(step % 8 == 7, residual, scale * update[..., 0])
        if (least <= 4 * np.finfo(WIDE).eps * (lengths(y) + lengths(x))).all():
            break
    return best, least
