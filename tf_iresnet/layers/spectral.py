"""Dense and convolution layers whose operator norm is held below a constant."""

from __future__ import annotations

import abc
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet import initializers, lanczos, norms
from tf_iresnet.arguments import (
    checked_by,
    checked_choice,
    checked_flag,
    checked_integer,
    checked_real,
)
from tf_iresnet.autograph import AsWritten
from tf_iresnet.bounds import gram
from tf_iresnet.bounds.dense import product_up
from tf_iresnet.functions import Affine
from tf_iresnet.layers.activations import activation_bound
from tf_iresnet.layers.context import checked_context, checked_context_size, given
from tf_iresnet.layers.precision import check_policy
from tf_iresnet.linear_maps import ConvMap, DenseMap, LinearMap

NORMALIZATIONS = ("power_iteration", "bound")
_WARM_UP = 15  # power iterations at construction


def checked_coeff(coeff: float | None) -> float | None:
    """Returns the constraint's constant, or None for no constraint.

    Raises:
      ValueError: if it does not lie in (0, 1).
    """
    if coeff is None:
        return None
    due = "must lie in (0, 1), or be None for no constraint"
    return checked_real("coeff", coeff, due, lambda value: 0.0 < value < 1.0)


def checked_normalization(normalization: str) -> str:
    """Returns the way in which kernels are normalised.

    Raises:
      ValueError: if there is no such way.
    """
    return checked_choice("normalization", normalization, NORMALIZATIONS)


class SpectralLayer(AsWritten, keras.layers.Layer, abc.ABC):
    r"""A linear layer with soft spectral normalisation, W min(1, c / sigma).

    With ``normalization="power_iteration"`` sigma = u^T W v estimates the norm of the operator at
    its true spatial size by power iteration, from below; u and v are non-trainable weights,
    constant for the gradient and frozen in inference. With ``normalization="bound"`` sigma is a
    proven upper bound of the norm, roundings included (`tf_iresnet.bounds.gram`), so that the
    norm is at most c at every step; there is no state. Only kernels above c are scaled.

    With a ``context_size`` the layer is called with a context [batch, context_size] too, of which
    a linear map is added to the bias; the Lipschitz constant in x is the same for every context.
    """

    linear_map: LinearMap  # the operator at the input's shape, once built

    def __init__(
        self,
        *,
        coeff: float | None,
        power_iterations: int,
        normalization: str,
        activation: Any,
        use_bias: bool,
        kernel_initializer: Any,
        bias_initializer: Any,
        kernel_regularizer: Any,
        bias_regularizer: Any,
        context_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        check_policy(self)
        self.context_size = checked_context_size(context_size)
        self.coeff = checked_coeff(coeff)
        self.power_iterations = checked_integer("power_iterations", power_iterations, 0)
        self.normalization = checked_normalization(normalization)
        self.activation = checked_by(
            "activation",
            activation,
            keras.activations.get,
            "an activation of Keras by name, a function, a layer or None",
        )
        self.use_bias = checked_flag("use_bias", use_bias)
        self.kernel_initializer = initializers.checked("kernel_initializer", kernel_initializer)
        self.bias_initializer = initializers.checked("bias_initializer", bias_initializer)
        self.kernel_regularizer, self.bias_regularizer = (
            checked_by(name, value, keras.regularizers.get, 'a regularizer such as "l2", or None')
            for name, value in (
                ("kernel_regularizer", kernel_regularizer),
                ("bias_regularizer", bias_regularizer),
            )
        )

    @abc.abstractmethod
    def _make_map(self, input_shape: tuple[int | None, ...]) -> tuple[LinearMap, tuple[int, ...]]:
        """Returns the operator at this input shape, and the kernel's shape."""

    def build(self, input_shape: Any) -> None:
        self.linear_map, kernel_shape = self._make_map(tuple(input_shape))
        norm_map, flat = self._norm_view(kernel_shape)
        with tf.init_scope():
            kernel = tf.cast(
                self.kernel_initializer(kernel_shape, dtype=self.variable_dtype),
                self.variable_dtype,
            )
            if self._iterates:
                u, v = self._start(norm_map, tf.reshape(kernel, flat))
        self.kernel = self.add_weight(
            name="kernel",
            shape=kernel_shape,
            initializer=lambda shape, dtype: kernel,
            regularizer=self.kernel_regularizer,
            autocast=False,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(kernel_shape[-1],),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                autocast=False,
            )
        if self.context_size is not None:
            # Zero: a conditional model starts as an unconditional one.
            self.context_kernel = self.add_weight(
                name="context_kernel",
                shape=(self.context_size, kernel_shape[-1]),
                initializer="zeros",
                autocast=False,
            )
        if self._iterates:
            # Data-free state, but its update would drift apart between replicas by rounding.
            self.u, self.v = (
                self.add_weight(
                    name=name,
                    shape=tuple(value.shape),
                    initializer=lambda shape, dtype, value=value: value,
                    trainable=False,
                    autocast=False,
                    aggregation="only_first_replica",
                )
                for name, value in (("u", u), ("v", v))
            )
        self.built = True

    def _start(self, norm_map: LinearMap, kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Random vectors, warmed up; `keras.utils.set_random_seed` fixes them."""
        shape = (1, *norm_map.output_shape)
        u = tf.cast(keras.random.normal(shape, dtype="float32"), kernel.dtype)
        v = norm_map.adjoint(kernel, u)
        v /= tf.maximum(tf.norm(v), np.finfo(np.float32).tiny)
        if not bool(tf.reduce_any(v != 0)):
            v = tf.fill((1, *norm_map.input_shape), tf.constant(1.0, kernel.dtype))
            v /= tf.norm(v)
        return norms.iterate(norm_map, kernel, u / tf.norm(u), v, _WARM_UP)

    def _norm_view(self, kernel_shape: tuple[int, ...]) -> tuple[LinearMap, tuple[int, ...]]:
        """A cheaper operator of the same norm, and the kernel's shape for it."""
        linear_map = self.linear_map
        # Convolutions of one tap act on every pixel by the same matrix.
        if isinstance(linear_map, ConvMap) and all(size == 1 for size in kernel_shape[:-2]):
            return DenseMap(*kernel_shape[-2:]), kernel_shape[-2:]
        return linear_map, kernel_shape

    def _norm_operands(self) -> tuple[LinearMap, tf.Tensor]:
        linear_map, shape = self._norm_view(tuple(self.kernel.shape))
        return linear_map, tf.reshape(tf.convert_to_tensor(self.kernel), shape)

    def normalized_kernel(self) -> tf.Tensor:
        """Returns the kernel that ``call`` uses, W min(1, c / sigma), in the weights' dtype."""
        kernel = tf.convert_to_tensor(self.kernel)
        if self.coeff is None:
            return kernel
        return kernel * (self.coeff / tf.maximum(self._sigma(), self.coeff))

    @property
    def _iterates(self) -> bool:
        """Whether the layer has a power iteration."""
        return self.coeff is not None and self.normalization == "power_iteration"

    def _sigma(self) -> tf.Tensor:
        """The norm that the kernel is divided by, in the weights' dtype."""
        linear_map, flat = self._norm_operands()
        if self._iterates:
            u, v = (tf.convert_to_tensor(vector) for vector in self.spectral_state)
            return norms.sigma_of(linear_map, flat, u, v)
        # The quotient, the product and the cast for compute are rounded, and so is sigma.
        dtypes = [self.variable_dtype] * 4 + [self.compute_dtype]
        sigma = gram.norm_bound(linear_map, flat) + gram.rounding_bound(flat, *dtypes)
        return tf.cast(sigma, self.variable_dtype)

    @property
    def spectral_state(self) -> list[keras.Variable]:
        """The vectors u and v of the power iteration; empty where there is none."""
        return [self.u, self.v] if self._iterates else []

    def update_spectral_state(self, iterations: int | None = None) -> None:
        """Runs the power iteration now.

        Args:
          iterations: how many; None for the layer's ``power_iterations``.
        """
        iterations = self.power_iterations if iterations is None else iterations
        if not self._iterates or iterations == 0:
            return
        linear_map, kernel = self._norm_operands()
        u, v = (tf.convert_to_tensor(vector) for vector in self.spectral_state)
        self._set_state(*norms.iterate(linear_map, tf.stop_gradient(kernel), u, v, iterations))

    def converge_spectral_state(self, tolerance: float = 1e-4, iterations: int = 1000) -> None:
        """Finds the leading u and v, until |W v - sigma u| <= tolerance sigma."""
        if not self._iterates:
            return
        linear_map, kernel = self._norm_operands()
        u, v = (tf.convert_to_tensor(vector) for vector in self.spectral_state)
        result = lanczos.leading_vectors(
            linear_map, kernel, u, v, iterations=iterations, tolerance=tolerance
        )
        self._set_state(result.u, result.v)

    def _set_state(self, u: tf.Tensor, v: tf.Tensor) -> None:
        self.u.assign(tf.stop_gradient(u))
        self.v.assign(tf.stop_gradient(v))

    def norm_estimate(self) -> tf.Tensor:
        """Returns what the layer believes the normalised kernel's norm to be: no bound.

        It is the power iteration's, from below; without constraint, a fresh one's.
        """
        if self.coeff is not None:
            return tf.minimum(self._sigma(), self.coeff)
        linear_map, kernel = self._norm_operands()
        return norms.sigma_of(linear_map, kernel, *self._start(linear_map, kernel))

    def norm_bound(self) -> float:
        """Returns a proven upper bound of the norm of the normalised kernel's operator.

        It is computed from the kernel alone, never from u and v, and holds for the kernel as
        stored and as cast for compute.
        """
        kernel, linear_map, bounds = self.normalized_kernel(), self.linear_map, []
        for dtype in {self.variable_dtype, self.compute_dtype}:
            cast = tf.cast(tf.cast(kernel, dtype), tf.float64).numpy()
            if isinstance(linear_map, DenseMap):
                bounds.append(norms.dense_norm_bound(cast))
            else:
                bounds.append(
                    norms.conv_norm_bound(
                        cast, linear_map.spatial_shape, padding=linear_map.padding
                    )
                )
        return max(bounds)

    def lipschitz_bound(self) -> float:
        """Returns a proven Lipschitz constant: `norm_bound` times the activation's.

        Raises:
          ValueError: if the activation has no known one.
        """
        return product_up([self.norm_bound(), activation_bound(self.activation)])

    def lipschitz_estimate(self) -> float:
        """Returns `norm_estimate` times the activation's constant: no bound."""
        return float(self.norm_estimate()) * activation_bound(self.activation)

    # --- as a part of a differentiable chain ---

    def function(self) -> Affine:
        """Returns the layer, without its activation, as a function of `function_parameters`."""
        return Affine(self.linear_map, self.use_bias or self.context_size is not None)

    def function_parameters(self, context: tf.Tensor | None = None) -> list[tf.Tensor]:
        """Returns the normalised kernel and the bias, in the weights' dtype.

        Args:
          context: [batch, context_size], for a layer that takes one; the bias is [batch, units].
        """
        bias = [tf.convert_to_tensor(self.bias)] if self.use_bias else []
        if context is not None:
            bias.append(tf.matmul(context, tf.convert_to_tensor(self.context_kernel)))
        return [self.normalized_kernel(), *([sum(bias[1:], bias[0])] if bias else [])]

    def call(self, x: Any, training: bool | None = None, context: Any = None) -> tf.Tensor:
        if training:
            self.update_spectral_state()
        x = tf.convert_to_tensor(x)
        context = checked_context(self.name, context, self.context_size, x)
        x = tf.cast(x, self.compute_dtype)
        parameters = self.function_parameters(**given(self, context))
        parameters = [tf.cast(p, self.compute_dtype) for p in parameters]
        return self.activation(self.function()(parameters, x))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "coeff": self.coeff,
            "power_iterations": self.power_iterations,
            "normalization": self.normalization,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "context_size": self.context_size,
        }
