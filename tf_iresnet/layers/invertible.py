"""The contract of an invertible layer."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import keras
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.arguments import check_instance
from tf_iresnet.autograph import AsWritten
from tf_iresnet.fixed_point import FixedPointResult
from tf_iresnet.keras_private import layers_inside
from tf_iresnet.layers import adaptation, rows
from tf_iresnet.layers.context import check_context, context_keyword
from tf_iresnet.layers.precision import check_policy
from tf_iresnet.layers.proof import Proof, asked_once
from tf_iresnet.layers.spectral import SpectralLayer
from tf_iresnet.layers.upkeep import up_to_date
from tf_iresnet.log_det import LogDetEstimator
from tf_iresnet.typing import ArrayLike, BatchLike, Context, Data, Inputs, Seed, Shape, StaticShape

if TYPE_CHECKING:
    from tf_iresnet.layers.data_initialized import DataInitialized


class InvertibleLayer(AsWritten, keras.layers.Layer, abc.ABC):
    r"""A bijection of each example onto the layer's output space, data towards latent.

    Calls change state in two ways. In training, weights that come from data, such as ActNorm's
    scales, are set once. In every mode, the norms of kernels that have moved are found anew. The
    state that flows through the layers keeps the dtype of the weights under every mixed-precision
    policy.

    Subclasses define `forward`, `_log_det`, `_inverse` and the two shape methods. These take
    tensors that were checked, and compositions call them for their parts; the methods that users
    call check once. A layer whose `context_size` is not None is a bijection for each context
    [batch, context_size]. It takes one as the keyword ``context`` in each of its methods; other
    layers are never given any.

    Example:
    >>> class Twice(InvertibleLayer):
    ...     def forward(self, x, training=False):
    ...         return 2.0 * x
    ...     def _log_det(self, x, seed, log_det, training):
    ...         return 2.0 * x, zero_log_det(x) + x.shape[1] * np.log(2.0)
    ...     def _inverse(self, y):
    ...         return FixedPointResult.exact(y / 2.0)
    ...     def compute_input_shape(self, output_shape):
    ...         return tuple(output_shape)
    >>> y, log_det = Twice().forward_and_log_det(np.ones((1, 2), "float32"))
    >>> y.numpy().tolist(), log_det.numpy().round(4).tolist()
    ([[2.0, 2.0]], [1.3863])

    Source: Invertible Residual Networks, section 2.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        check_policy(self)
        self._event_shape: tuple[int | None, ...] | None = None
        self._inverse_proof = Proof()

    # --- what a subclass defines ---

    @abc.abstractmethod
    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns y.

        Args:
          x: [batch, ...] of the weights' dtype.
          training: whether the branches may compute in the policy's compute dtype, and layers
            that nobody has adapted take their weights from x.
        """

    @abc.abstractmethod
    def _log_det(
        self, x: tf.Tensor, seed: tf.Tensor, log_det: LogDetEstimator | None, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns y and ln|det dy/dx| [batch]."""

    @abc.abstractmethod
    def _inverse(self, y: tf.Tensor) -> FixedPointResult:
        """Returns the solver's result, its x of the shape of the input.

        Its ``error_bound`` may be a function that returns it: it is called where it is wanted.
        """

    @abc.abstractmethod
    def compute_input_shape(self, output_shape: Shape) -> StaticShape:
        """Returns the input's shape for an output's shape, both with the batch axis."""

    @property
    def needs_data(self) -> bool:
        """Whether weights that the layer takes from data are not set so far, by data or by hand."""
        return False

    @property
    def context_size(self) -> int | None:
        """How many features the layer's context has; None for a layer without one."""
        return None

    def sublayers(self) -> Sequence[InvertibleLayer]:
        """Returns the invertible layers that this one is composed of, if any."""
        return ()

    def inverse_lipschitz_bound(self, sublayers: Sequence[float] | None = None) -> float:
        """Returns a proven Lipschitz constant of the inverse, infinite if none is known.

        It bounds how much an error in y grows in x, in the Euclidean norm and in exact
        arithmetic.

        Args:
          sublayers: the constants of `sublayers`, where they are known already.

        Raises:
          ValueError: if a part has no bound; it is named.
        """
        raise ValueError(
            f"{type(self).__name__} {self.name!r} has no known bound of its inverse; give it a "
            "method inverse_lipschitz_bound()."
        )

    def _adapt(
        self, parts: list[tf.Tensor], contexts: list[tf.Tensor | None], due: list[DataInitialized]
    ) -> list[tf.Tensor]:
        """Sets what comes from data in the layers that are due, which leave the list.

        Args:
          parts: rows in groups, [rows, ...] each.
          contexts: those of the rows.
          due: the layers to be set.

        Returns:
          The groups of y.
        """
        return [
            self.forward(x, **context_keyword(self, context))
            for x, context in zip(parts, contexts, strict=True)
        ]

    # --- what users call ---

    def adapt(
        self,
        data: Data,
        context: Context = None,
        *,
        batch_size: int | None = None,
        steps: int | None = None,
    ) -> None:
        """Sets what comes from data, such as ActNorm's scales, from many rows.

        In a composition each layer sees the rows as the layers before it map them. Frozen parts
        (``trainable=False``) are left alone; all others are set, whether or not they were set
        before, by data or by hand. If it fails, nothing is changed.

        Args:
          data: [rows, ...]; or batches of rows as `keras.Model.fit` takes them: a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a PyTorch ``DataLoader`` or a generator.
            Of a batch that is a tuple the first part is x, and for a conditional layer the second
            part is the context.
          context: [rows, context_size], beside an array, for a conditional layer.
          batch_size: rows of an array in a batch, 256 by default.
          steps: how many batches are used. By default as many as hold 8,192 rows; for images and
            the like as many as hold 65,536 pixels, but at least 256 rows. Rows of an array are
            taken at even distances.

        Raises:
          ValueError: if there are no rows, or values that are not finite; if all that comes from
            data is frozen.
        """
        rows.check_contexts(self.name, data, context, self.context_size, self.variable_dtype)
        found = rows.batches(data, context, batch_size, steps)
        groups = rows.collect(found, self._inputs_of, steps)
        parts = [self._prepare(group["x"]) for group in groups]
        contexts = [
            self._check_context(group.get("context"), x)
            for group, x in zip(groups, parts, strict=True)
        ]
        for name, values in (("data", parts), ("context", contexts)):
            if not all(bool(tf.reduce_all(tf.math.is_finite(v))) for v in values if v is not None):
                raise ValueError(
                    f"{name} holds NaN or infinite values; remove those rows before {self.name} "
                    "adapts."
                )
        adaptation.adapt(self, parts, contexts, again=True)

    def _inputs_of(self, batch: BatchLike) -> Inputs:
        """Returns the parts of a batch that the layer reads."""
        x, *rest = batch if isinstance(batch, (tuple, list)) else [batch]
        return {"x": x, **(context_keyword(self, rest[0]) if rest else {})}

    def call(
        self, x: ArrayLike, training: bool | None = None, context: Context = None
    ) -> tf.Tensor:
        x = self._prepare(x)
        return self.evaluate(x, bool(training), self._check_context(context, x))

    def forward_and_log_det(
        self,
        x: ArrayLike,
        seed: Seed = None,
        log_det: LogDetEstimator | None = None,
        training: bool = False,
        context: Context = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the output and the log-determinant of its Jacobian.

        Args:
          x: [batch, ...]; array-likes are accepted.
          seed: an integer, or int32 [2] or [3] (see `tf_iresnet.randomness`); None draws a
            fresh one. The same seed gives the same value: in evaluation for each example,
            whatever else the batch holds; in training for the batch.
          log_det: an estimator that replaces that of every residual block for this call.
          training: whether the branches may compute in the policy's compute dtype, and layers
            that nobody has adapted take their weights from x. They also take them where a gradient
            tape records the weights.
          context: [batch, context_size], for a conditional layer; differentiable as well.

        Returns:
          y, and ln|det dy/dx| in nats, [batch], float32 or wider; differentiable once.
        """
        if log_det is not None:
            check_instance("log_det", log_det, LogDetEstimator, "Exact()")
        key = randomness.as_seed(seed)
        x = self._prepare(x)
        context = self._check_context(context, x)
        return self.evaluate_with_log_det(x, key, log_det, training, context)

    @overload
    def inverse(
        self, y: ArrayLike, return_result: Literal[False] = ..., context: Context = ...
    ) -> tf.Tensor: ...

    @overload
    def inverse(
        self, y: ArrayLike, return_result: Literal[True], context: Context = ...
    ) -> FixedPointResult: ...

    def inverse(
        self, y: ArrayLike, return_result: bool = False, context: Context = None
    ) -> tf.Tensor | FixedPointResult:
        """Returns the x that the layer maps to y, a pure function of y.

        Args:
          y: [batch, ...]; array-likes are accepted.
          return_result: whether to return the solver's `FixedPointResult` instead of x.
          context: [batch, context_size], for a conditional layer.

        Returns:
          x, or the result with x, steps, residual, converged and error_bound per example. The
          bound costs one evaluation in float64 and, once for the present weights, a proof.

        Raises:
          ConvergenceError: in eager code, if an example did not converge (without
            ``return_result``), or its gradient is asked for. In graphs those examples are NaN,
            and so are their gradients, the gradients of weights, and log-determinants at them.
        """
        y = tf.cast(tf.convert_to_tensor(y), self.variable_dtype)
        if not self.built:
            self.build(self.compute_input_shape(tuple(y.shape)))
        return self.invert(y, return_result, self._check_context(context, y))

    # --- the same of tensors that were checked, for models and bijectors ---

    def evaluate(
        self, x: tf.Tensor, training: bool = False, context: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns y, as `call` does."""
        with self._norms_up_to_date():
            return self.forward(x, training=training, **context_keyword(self, context))

    def evaluate_with_log_det(
        self,
        x: tf.Tensor,
        seed: tf.Tensor,
        log_det: LogDetEstimator | None = None,
        training: bool = False,
        context: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns y and ln|det dy/dx| [batch], as `forward_and_log_det` does."""
        with adaptation.learning(self), self._norms_up_to_date():
            if not (training or adaptation.is_learning()):
                seed = randomness.own_keys(seed, x)
            return self._log_det(x, seed, log_det, training, **context_keyword(self, context))

    def invert(
        self, y: tf.Tensor, return_result: bool = False, context: tf.Tensor | None = None
    ) -> tf.Tensor | FixedPointResult:
        """Returns x or the solver's result, as `inverse` does."""
        with self._norms_up_to_date():
            result = self._inverse(y, **context_keyword(self, context))
        if not return_result:
            return result.checked(self._hint)
        with asked_once():
            return result.bounded()

    def amplification(self) -> tf.Tensor:
        """Returns `inverse_lipschitz_bound` for the weights that a call meets, also in graphs.

        Returns:
          A float64 scalar, infinite where nothing is proven of these weights.
        """
        return self._inverse_proof.of(self, self.inverse_lipschitz_bound)

    def spectral_layers(self) -> Iterator[SpectralLayer]:
        """Yields every spectrally normalised layer inside."""
        for layer in layers_inside(self):
            if isinstance(layer, SpectralLayer):
                yield layer

    def _norms_up_to_date(self) -> contextlib.AbstractContextManager[None]:
        """Finds the norms of all kernels that have moved, once for all calls inside."""
        return up_to_date(self.spectral_layers())

    def update_spectral_state(self, iterations: int | None = None) -> None:
        """Finds the norms of all kernels that have moved; every call does so anyway.

        Args:
          iterations: how many power iterations to make besides; None for none.
        """
        for layer in self.spectral_layers():
            layer.update_spectral_state(iterations)

    def converge_spectral_state(self, tolerance: float = 1e-4, iterations: int = 1000) -> None:
        """Finds every layer's leading u and v, until |W^T u - sigma v| <= tolerance sigma."""
        for layer in self.spectral_layers():
            layer.converge_spectral_state(tolerance, iterations)

    # --- helpers ---

    def _hint(self) -> str:
        """Says, for a message, whether the blocks' bounds explain a failed inverse."""
        blocks = [layer for layer in layers_inside(self) if isinstance(layer, InvertibleLayer)]
        bounded = [b for b in blocks if callable(getattr(b, "lipschitz_bound", None))]
        if not bounded:
            return ""
        try:
            bound, worst = max((block.lipschitz_bound(), block.name) for block in bounded)
        except ValueError as error:  # a branch of which none is known
            return f"Nothing says that it is invertible: {error} "
        if bound < 1.0:
            return f"Every branch has a Lipschitz constant of at most {bound:.4g}. "
        return (
            f"The branch of {worst} has a Lipschitz constant bounded by {bound:.4g} only, so that "
            "nothing says that it is invertible. "
        )

    def _check_context(self, context: Context, x: tf.Tensor) -> tf.Tensor | None:
        """Converts and checks a context; None for a layer without one."""
        return check_context(self.name, context, self.context_size, x)

    def _prepare(self, x: ArrayLike) -> tf.Tensor:
        """Converts, casts and checks an input; builds the layer on first use."""
        x = tf.convert_to_tensor(x)
        if x.dtype != self.variable_dtype:
            x = tf.cast(x, self.variable_dtype)
        if not self.built:
            self.build(tuple(x.shape))
        self._check_input(tuple(x.shape))
        return x

    def build(self, input_shape: Shape) -> None:
        input_shape = tuple(input_shape)
        if any(size is None for size in input_shape[1:]) or len(input_shape) < 2:
            raise ValueError(
                f"{self.name} needs inputs of shape [batch, ...] with fixed sizes after the "
                f"batch, got {input_shape}."
            )
        self._event_shape = input_shape[1:]
        adaptation.freeze_parts(self)
        self.built = True

    def _check_input(self, shape: tuple[int | None, ...]) -> None:
        expected = self._event_shape
        if expected is None:
            return
        if len(shape) != len(expected) + 1 or any(
            have is not None and have != want
            for have, want in zip(shape[1:], expected, strict=True)
        ):
            sizes = ", ".join(str(size) for size in expected)
            raise ValueError(
                f"{self.name} was built for inputs of shape [batch, {sizes}], got {shape}."
            )

    def compute_output_shape(self, input_shape: Shape) -> StaticShape:
        return tuple(input_shape)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> keras.KerasTensor:
        # Keras expects the compute dtype; the state keeps that of the weights.
        spec = super().compute_output_spec(*args, **kwargs)
        return keras.KerasTensor(spec.shape, dtype=self.variable_dtype)


def zero_log_det(x: tf.Tensor) -> tf.Tensor:
    """Returns zeros [batch], the log-determinant of a permutation, float32 or wider."""
    dtype = tf.float64 if x.dtype == tf.float64 else tf.float32
    return tf.zeros(tf.shape(x)[:1], dtype)
