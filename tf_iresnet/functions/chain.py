"""Compositions of functions."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_iresnet.functions.affine import Affine
from tf_iresnet.functions.function import Function, Parameters
from tf_iresnet.functions.pointwise import ScaledSwish, Silu, softplus


class Chain(Function):
    """A composition of functions, first to last; parameters are theirs in this order."""

    def __init__(self, parts: Sequence[Function]) -> None:
        self.parts = list(parts)
        self.num_parameters = sum(part.num_parameters for part in self.parts)

    def fold(self, parameters):
        parts = list(self.parts)
        groups = [list(group) for group in self.split(parameters)]
        for index in range(1, len(parts) - 1):
            before, part, after = parts[index - 1 : index + 2]
            if not (
                isinstance(part, ScaledSwish)
                and isinstance(before, Affine)
                and isinstance(after, Affine)
                and groups[index][0].dtype.size >= 4  # narrower kernels would be rounded twice
            ):
                continue
            # x sigmoid(b x) / 1.1 = silu(b x) / (1.1 b), where silu'' and what b needs of it
            # take fewer passes over large tensors; the floor lies far below rounding.
            b = tf.maximum(softplus(groups[index][0]), 1e-12)
            groups[index - 1] = [b * p for p in groups[index - 1]]
            groups[index + 1][0] /= 1.1 * b
            parts[index], groups[index] = Silu(), []
        return Chain(parts), [p for group in groups for p in group]

    def unrounded(self):
        return Chain([part.unrounded() for part in self.parts])

    def enclose(self, parameters, x, error):
        for part, own in zip(self.parts, self.split(parameters), strict=True):
            x, error = part.enclose(own, x, error)
        return x, error

    def split(self, parameters: Parameters) -> list[Parameters]:
        """Returns the parameters of each part."""
        groups, start = [], 0
        for part in self.parts:
            groups.append(parameters[start : start + part.num_parameters])
            start += part.num_parameters
        return groups

    def linearize(self, parameters, x):
        residuals = []
        for part, own in zip(self.parts, self.split(parameters), strict=True):
            x, of_part = part.linearize(own, x)
            residuals.append(of_part)
        return x, residuals

    def jvp(self, parameters, residuals, tangent):
        tangents = []
        for part, own, at in zip(self.parts, self.split(parameters), residuals, strict=True):
            tangent, of_part = part.jvp(own, at, tangent)
            tangents.append(of_part)
        return tangent, tangents

    def vjp(self, parameters, residuals, cotangent):
        layers = list(zip(self.parts, self.split(parameters), residuals, strict=True))
        for part, own, at in reversed(layers):
            cotangent = part.vjp(own, at, cotangent)
        return cotangent

    def take_examples(self, residuals, take):
        taken = [
            part.take_examples(at, take) for part, at in zip(self.parts, residuals, strict=True)
        ]
        return None if any(of_part is None for of_part in taken) else taken

    def gradient(self, parameters, residuals, upstream, products=()):
        layers = list(zip(self.parts, self.split(parameters), residuals, strict=True))
        cotangents = [cotangent for _, cotangent in products]
        gradients: list[list[tf.Tensor]] = []
        for index in reversed(range(len(layers))):
            part, own, at = layers[index]
            local = [
                (tangents[index], cotangent)
                for (tangents, _), cotangent in zip(products, cotangents, strict=True)
            ]
            upstream, own_gradients = part.gradient(own, at, upstream, local)
            gradients.append(own_gradients)
            if index:
                cotangents = [part.vjp(own, at, cotangent) for cotangent in cotangents]
        return upstream, [g for own_gradients in reversed(gradients) for g in own_gradients]
