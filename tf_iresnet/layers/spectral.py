"""Dense and convolution layers whose operator norm is held below a constant."""

from __future__ import annotations

import abc
import math
from collections.abc import MutableMapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet import norms, replicas
from tf_iresnet.arguments import (
    check_by,
    check_choice,
    check_flag,
    check_integer,
    check_real,
)
from tf_iresnet.autograph import AsWritten
from tf_iresnet.functions import Affine
from tf_iresnet.functions.linear_maps import ConvMap, DenseMap, LinearMap
from tf_iresnet.initializers import check_initializer
from tf_iresnet.layers import upkeep
from tf_iresnet.layers.activations import activation_bound
from tf_iresnet.layers.context import check_context, check_context_size, context_keyword
from tf_iresnet.layers.precision import check_policy
from tf_iresnet.norms import estimates, gram, lanczos
from tf_iresnet.norms.dense import multiply_up
from tf_iresnet.tensorflow_private import save_with
from tf_iresnet.typing import (
    ActivationLike,
    ArrayLike,
    Config,
    Context,
    InitializerLike,
    RegularizerLike,
    Shape,
)

NORMALIZATIONS = ("auto", "bound", "power_iteration")
# What a proof may cost: a share of a training step on so many examples.
_SHARE = 0.05
_EXAMPLES = 64
# The bound's products run at a lower rate than convolutions, those of small matrices at a still
# lower one. A search for an estimate takes the time of so many operations, and of so many
# evaluations of one example. `benchmarks/norms.py` measures these.
_RATE, _FEW = 1.5, 64
_SEARCH, _EVALUATIONS = 2e8, 16


def check_coeff(coeff: float | None) -> float | None:
    """Returns the constraint's constant, or None for no constraint.

    Raises:
      ValueError: if it does not lie in (0, 1).
    """
    if coeff is None:
        return None
    due = "must lie in (0, 1), or be None for no constraint"
    return check_real("coeff", coeff, due, lambda value: 0.0 < value < 1.0)


def check_normalization(normalization: str) -> str:
    """Returns the way in which kernels are normalised.

    Raises:
      ValueError: if there is no such way.
    """
    return check_choice("normalization", normalization, NORMALIZATIONS)


def choose_normalization(linear_maps: Sequence[LinearMap], passes: int) -> str:
    """Returns "bound" where proofs cost little, else "power_iteration".

    Little is at most 5 % of a training step on 64 examples, or what the search for estimates costs.
    Operations are counted; small layers pay a larger share of the time.

    Args:
      linear_maps: the operators that share the cost.
      passes: evaluations of the operators, or what costs as much, in a training step.
    """
    proofs = sum(
        _RATE * (1 + _FEW / gram.side(linear_map)) * gram.operations(linear_map)
        for linear_map in linear_maps
    )
    evaluation = sum(linear_map.operations for linear_map in linear_maps)
    searches = _SEARCH * len(linear_maps) + _EVALUATIONS * evaluation
    step = passes * _EXAMPLES * evaluation
    return "bound" if proofs <= max(_SHARE * step, searches) else "power_iteration"


class SpectralLayer(AsWritten, keras.layers.Layer, abc.ABC):
    r"""A linear layer with soft spectral normalisation, W min(1, c / sigma).

    With ``normalization="bound"`` sigma is a proven upper bound of the operator's norm at its true
    spatial size, roundings included (`tf_iresnet.norms.gram`): the norm is at most c in every
    call. With ``normalization="power_iteration"`` sigma = \|W v\| estimates it, from below: u and v
    are non-trainable weights, constant for the gradient, and are searched for until they are
    singular vectors to 1 %. "auto" takes the bound where by count it costs at most 5 % of a
    training step, or no more than the search for an estimate; `build` replaces it by that choice.
    Only kernels of a norm above c are scaled.

    A call whose kernel has moved since sigma was found first finds it anew
    (`tf_iresnet.layers.upkeep`), so the constraint holds in every training loop. While the kernel
    stays, this costs a comparison.

    With a ``context_size`` the layer is also called with a context [batch, context_size]. A linear
    map of it is added to the bias, and the Lipschitz constant in x is the same for every context.

    Example:
    >>> from tf_iresnet.layers import SpectralDense
    >>> layer = SpectralDense(3, coeff=0.5, normalization="bound")
    >>> layer.build((None, 4))
    >>> layer.norm_bound() < 0.5001
    True

    Source: Invertible Residual Networks, section 2.1; Gouk et al. 2018.
    """

    #: How often a training step evaluates the layer, for "auto": forward, and backward twice.
    passes = 3

    linear_map: LinearMap  # the operator at the input's shape, once built
    norm_shape: tuple[int, ...]  # the kernel's shape for an operator of the same norm
    known_norm: Any = None  # an `upkeep.KnownNorm`, once built with a constraint

    def __init__(
        self,
        *,
        coeff: float | None,
        power_iterations: int,
        normalization: str,
        activation: ActivationLike,
        use_bias: bool,
        kernel_initializer: InitializerLike,
        bias_initializer: InitializerLike,
        kernel_regularizer: RegularizerLike,
        bias_regularizer: RegularizerLike,
        context_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        check_policy(self)
        self.context_size = check_context_size(context_size)
        self.coeff = check_coeff(coeff)
        self.power_iterations = check_integer("power_iterations", power_iterations, 1)
        self.normalization = check_normalization(normalization)
        self.activation = check_by(
            "activation",
            activation,
            keras.activations.get,
            "an activation of Keras by name, a function, a layer or None",
        )
        self.use_bias = check_flag("use_bias", use_bias)
        self.kernel_initializer = check_initializer("kernel_initializer", kernel_initializer)
        self.bias_initializer = check_initializer("bias_initializer", bias_initializer)
        self.kernel_regularizer, self.bias_regularizer = (
            check_by(name, value, keras.regularizers.get, 'a regularizer such as "l2", or None')
            for name, value in (
                ("kernel_regularizer", kernel_regularizer),
                ("bias_regularizer", bias_regularizer),
            )
        )

    @abc.abstractmethod
    def _make_map(self, input_shape: tuple[int | None, ...]) -> tuple[LinearMap, tuple[int, ...]]:
        """Returns the operator at this input shape, and the kernel's shape."""

    def operator_at(self, input_shape: Shape) -> LinearMap:
        """Returns the operator that the layer is for inputs of this shape, built or not."""
        return self._make_map(tuple(input_shape))[0]

    def build(self, input_shape: Shape) -> None:
        self.linear_map, kernel_shape = self._make_map(tuple(input_shape))
        self._norm_map, self.norm_shape = self._norm_view(kernel_shape)
        if self.normalization == "auto":
            self.normalization = choose_normalization([self.linear_map], self.passes)
        with tf.init_scope():
            kernel = tf.cast(
                self.kernel_initializer(kernel_shape, dtype=self.variable_dtype),
                self.variable_dtype,
            )
            if self._iterates:
                start = dict(zip("uv", self._start(kernel), strict=True))
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
            with replicas.own_variables():
                self.u, self.v = (
                    self.add_weight(
                        name=name,
                        shape=tuple(value.shape),
                        initializer=lambda shape, dtype, value=value: value,
                        trainable=False,
                        autocast=False,
                        aggregation="only_first_replica",
                    )
                    for name, value in start.items()
                )
        if self.coeff is not None:
            # No weight of Keras' formats, since it follows from the kernel.
            self.__dict__["known_norm"] = upkeep.KnownNorm(kernel)
            save_with(self, "known_norm", self.known_norm.variables)
        self.built = True

    @property
    def _iterates(self) -> bool:
        """Whether the layer has a power iteration."""
        return self.coeff is not None and self.normalization == "power_iteration"

    def _start(self, kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns random u and v, where the first search starts; Keras' random seed fixes them."""
        shape = (1, *self._norm_map.input_shape)
        v = estimates.unit(tf.cast(keras.random.normal(shape, dtype="float32"), kernel.dtype))
        image = self._norm_map.apply(tf.reshape(kernel, self.norm_shape), v)
        return estimates.unit(image), v

    def _norm_view(self, kernel_shape: tuple[int, ...]) -> tuple[LinearMap, tuple[int, ...]]:
        """Returns a cheaper operator of the same norm, and the kernel's shape for it."""
        linear_map = self.linear_map
        # A convolution of one tap applies the same matrix to every pixel.
        if isinstance(linear_map, ConvMap) and all(size == 1 for size in kernel_shape[:-2]):
            return DenseMap(*kernel_shape[-2:]), kernel_shape[-2:]
        return linear_map, kernel_shape

    def norm_problem(self) -> tuple[LinearMap, tuple[str, ...]]:
        """Returns the operator whose norm is sought, and the dtypes that its kernel is rounded to.

        The quotient, the product and the cast for compute are rounded, and so is sigma.
        """
        return self._norm_map, (*[self.variable_dtype] * 4, self.compute_dtype)

    def normalized_kernel(self) -> tf.Tensor:
        """Returns the kernel that ``call`` uses, W min(1, c / sigma), in the weights' dtype."""
        frozen = upkeep.frozen_kernel(self)
        if frozen is not None:
            return frozen
        kernel = tf.convert_to_tensor(self.kernel)
        if self.coeff is None:
            return kernel
        return kernel * (self.coeff / tf.maximum(self._sigma(kernel), self.coeff))

    def _sigma(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns the norm that the kernel is divided by, in the weights' dtype."""
        with upkeep.up_to_date([self]):
            return self.known_norm.sigma_of(kernel)

    @property
    def spectral_state(self) -> list[keras.Variable]:
        """The vectors u and v of the power iteration; empty where there is none."""
        return [self.u, self.v] if self._iterates else []

    @property
    def derived_state(self) -> list[tf.Variable]:
        """What depends on the kernel's history: u, v and the known norm; empty without u and v."""
        return [*self.spectral_state, *self.known_norm.variables] if self._iterates else []

    def update_spectral_state(self, iterations: int | None = None) -> None:
        """Finds the norm now if the kernel has moved; every call does so anyway.

        Args:
          iterations: how many power iterations to make besides, moved or not; None for none.
        """
        if self._iterates and iterations:
            kernel = tf.reshape(tf.convert_to_tensor(self.kernel), self.norm_shape)
            u, v = (tf.convert_to_tensor(vector) for vector in self.spectral_state)
            _, v = estimates.iterate(self._norm_map, tf.stop_gradient(kernel), u, v, iterations)
            self.v.assign(v)
            self._search(upkeep.TOLERANCE, 1000, anew=False)
        with upkeep.up_to_date([self]):
            pass

    def converge_spectral_state(self, tolerance: float = 1e-4, iterations: int = 1000) -> None:
        """Finds the leading u and v, until |W^T u - sigma v| <= tolerance sigma."""
        if self._iterates:
            self._search(tolerance, math.ceil(iterations / self.power_iterations), anew=True)

    def _search(self, tolerance: float, rounds: int, anew: bool) -> None:
        kernel = tf.stop_gradient(tf.convert_to_tensor(self.kernel))
        upkeep.find_estimate(self, kernel, tolerance, rounds, anew)

    def norm_estimate(self) -> tf.Tensor:
        """Returns the norm that the layer takes the normalised kernel to have, at most coeff.

        It is the sigma that kernels are divided by: a bound with ``normalization="bound"``, else an
        estimate from below, which proves nothing. Without a constraint it is a new estimate.
        """
        kernel = tf.convert_to_tensor(self.kernel)
        if self.coeff is not None:
            return tf.minimum(self._sigma(kernel), self.coeff)
        return lanczos.leading_vectors(
            self._norm_map,
            tf.reshape(kernel, self.norm_shape),
            self._start(kernel)[1],
            tolerance=upkeep.TOLERANCE,
            steps=max(4, self.power_iterations),
            rounds=50,
        ).sigma

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
        return multiply_up([self.norm_bound(), activation_bound(self.activation)])

    def lipschitz_estimate(self) -> float:
        """Returns `norm_estimate` times the activation's constant: no bound."""
        return float(self.norm_estimate()) * activation_bound(self.activation)

    # --- in files ---

    def save_own_variables(self, store: MutableMapping[str, np.ndarray]) -> None:
        """Writes the weights, and the estimate that goes with the kernel."""
        with upkeep.up_to_date([self]):
            super().save_own_variables(store)
        if self._iterates:
            store["sigma"] = self.known_norm.sigma.numpy()

    def load_own_variables(self, store: MutableMapping[str, np.ndarray]) -> None:
        """Reads the weights, and the estimate of the norm if u and v confirm it."""
        parts = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118
        sigma = parts.pop("sigma", None)
        super().load_own_variables(parts)
        if self._iterates and sigma is not None:
            upkeep.recall(self, sigma)

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

    def call(
        self, x: ArrayLike, training: bool | None = None, context: Context = None
    ) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        context = check_context(self.name, context, self.context_size, x)
        x = tf.cast(x, self.compute_dtype)
        parameters = self.function_parameters(**context_keyword(self, context))
        parameters = [tf.cast(p, self.compute_dtype) for p in parameters]
        return self.activation(self.function()(parameters, x))

    def get_config(self) -> Config:
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
