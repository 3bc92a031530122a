"""The contract of an invertible layer."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.autograph import AsWritten
from tf_iresnet.fixed_point import FixedPointResult
from tf_iresnet.layers.context import checked_context, given
from tf_iresnet.layers.proof import Proof
from tf_iresnet.layers.spectral import SpectralLayer
from tf_iresnet.log_det import LogDetEstimator


class InvertibleLayer(AsWritten, keras.layers.Layer, abc.ABC):
    r"""A bijection of each example onto the layer's output space, data towards latent.

    ``call`` may change state when ``training=True`` (ActNorm's initialisation, the power
    iteration); `forward`, `forward_and_log_det` and `inverse` never do. The state that flows
    through keeps the dtype of the weights, whatever the mixed-precision policy.

    Subclasses define `forward`, `_log_det`, `_inverse` and the two shape methods. A layer whose
    `context_size` is not None is a bijection for each context [batch, context_size]: it takes one
    as the keyword ``context`` in each of its methods; others are never handed any.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self._event_shape: tuple[int | None, ...] | None = None
        self._inverse_proof = Proof()

    # --- what a subclass defines ---

    @abc.abstractmethod
    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns y, without any change of state.

        Args:
          x: [batch, ...] of the weights' dtype.
          training: whether the branches may compute in the policy's compute dtype.
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
    def compute_input_shape(self, output_shape: Any) -> tuple[int | None, ...]:
        """Returns the input's shape for an output's shape, both with the batch axis."""

    @property
    def needs_data(self) -> bool:
        """Whether `initialize` should see a batch before training."""
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

    def initialize(self, x: Any, context: Any = None) -> tf.Tensor:
        """Sets what is initialised from data (ActNorm) from one batch, and returns y.

        Args:
          x: a batch of data, [batch, ...].
          context: [batch, context_size], for a conditional layer.

        Returns:
          The layer's output for that batch after the initialisation.
        """
        x = self._prepared(x)
        return self.forward(x, **self._given(context, x))

    # --- what users call ---

    def call(self, x: Any, training: bool | None = None, context: Any = None) -> tf.Tensor:
        x = self._prepared(x)
        conditions = self._given(context, x)
        if training:
            self.update_spectral_state()
        return self.forward(x, training=bool(training), **conditions)

    def forward_and_log_det(
        self,
        x: Any,
        seed: Any = None,
        log_det: LogDetEstimator | None = None,
        training: bool = False,
        context: Any = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the output and the log-determinant of its Jacobian.

        Args:
          x: [batch, ...]; array-likes are accepted.
          seed: an integer, or int32 [2] or [3] (see `tf_iresnet.randomness`); None draws a
            fresh one. The same seed gives the same value.
          log_det: an estimator that replaces that of every residual block for this call.
          training: whether the branches may compute in the policy's compute dtype.
          context: [batch, context_size], for a conditional layer; differentiable, too.

        Returns:
          y, and ln|det dy/dx| in nats, [batch], float32 or wider; differentiable once.
        """
        x = self._prepared(x)
        conditions = self._given(context, x)
        return self._log_det(x, randomness.as_seed(seed), log_det, training, **conditions)

    def inverse(self, y: Any, return_result: bool = False, context: Any = None) -> Any:
        """Returns the x that the layer maps to y, a pure function of y.

        Args:
          y: [batch, ...]; array-likes are accepted.
          return_result: whether to return the solver's `FixedPointResult` instead of x.
          context: [batch, context_size], for a conditional layer.

        Returns:
          x, or the result with x, steps, residual, converged and error_bound per example. The
          bound costs one evaluation in float64 and, once for the weights at hand, a proof.

        Raises:
          ConvergenceError: in eager code, if an example did not converge (without
            ``return_result``), or its gradient is asked for. In graphs those examples are NaN,
            and so are their gradients, a weight's gradient and log-determinants there.
        """
        result = self.solved(y, context)
        return result.bounded() if return_result else result.checked(self._hint)

    def solved(self, y: Any, context: Any = None) -> FixedPointResult:
        """Returns the inverse's result as compositions need it: ``error_bound`` is left open."""
        y = tf.cast(tf.convert_to_tensor(y), self.variable_dtype)
        if not self.built:
            self.build(self.compute_input_shape(tuple(y.shape)))
        return self._inverse(y, **self._given(context, y))

    def amplification(self) -> tf.Tensor:
        """Returns `inverse_lipschitz_bound` of the weights that a call meets, in graphs too.

        Returns:
          A float64 scalar, infinite where nothing is proven of these weights.
        """
        return self._inverse_proof.of(self, self.inverse_lipschitz_bound)

    def spectral_layers(self) -> Iterator[SpectralLayer]:
        """Yields every spectrally normalised layer inside."""
        for layer in self._flatten_layers():
            if isinstance(layer, SpectralLayer):
                yield layer

    def update_spectral_state(self, iterations: int | None = None) -> None:
        """Runs the power iteration now in every spectral layer inside.

        Args:
          iterations: how many; None for each layer's own number.
        """
        for layer in self.spectral_layers():
            layer.update_spectral_state(iterations)

    def converge_spectral_state(self, tolerance: float = 1e-4, iterations: int = 1000) -> None:
        """Finds every layer's leading u and v, until |W v - sigma u| <= tolerance sigma."""
        for layer in self.spectral_layers():
            layer.converge_spectral_state(tolerance, iterations)

    # --- helpers ---

    def _hint(self) -> str:
        """Says how far the blocks' bounds explain that an inverse failed."""
        blocks = [layer for layer in self._flatten_layers() if isinstance(layer, InvertibleLayer)]
        bounded = [b for b in blocks if callable(getattr(b, "lipschitz_bound", None))]
        if not bounded:
            return ""
        bound, worst = max((block.lipschitz_bound(), block.name) for block in bounded)
        if bound < 1.0:
            return f"Every branch has a Lipschitz constant of at most {bound:.4g}. "
        return (
            f"The branch of {worst} has a Lipschitz constant bounded by {bound:.4g} only, so that "
            "nothing says that it is invertible. "
        )

    def _given(self, context: Any, x: tf.Tensor) -> dict[str, Any]:
        """Checks a context; returns it as the keyword argument of a conditional layer's hooks."""
        return given(self, checked_context(self.name, context, self.context_size, x))

    def _prepared(self, x: Any) -> tf.Tensor:
        """Converts, casts and checks an input; builds the layer on first use."""
        x = tf.convert_to_tensor(x)
        if x.dtype != self.variable_dtype:
            x = tf.cast(x, self.variable_dtype)
        if not self.built:
            self.build(tuple(x.shape))
        self._check_input(tuple(x.shape))
        return x

    def build(self, input_shape: Any) -> None:
        input_shape = tuple(input_shape)
        if any(size is None for size in input_shape[1:]) or len(input_shape) < 2:
            raise ValueError(
                f"{self.name} needs inputs of shape [batch, ...] with fixed sizes after the "
                f"batch, got {input_shape}."
            )
        self._event_shape = input_shape[1:]
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

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape)


def no_log_det(x: tf.Tensor) -> tf.Tensor:
    """Returns zeros [batch], the log-determinant of a permutation, float32 or wider."""
    dtype = tf.float64 if x.dtype == tf.float64 else tf.float32
    return tf.zeros(tf.shape(x)[:1], dtype)
