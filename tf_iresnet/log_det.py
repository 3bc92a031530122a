r"""Log-determinants of x + g(x): truncated, unbiased and exact estimators.

With J the Jacobian of g and Lip(g) < 1,

    ln|det(I + J)| = sum_{k >= 1} (-1)^{k+1} tr(J^k) / k,
    d ln|det(I + J)| = tr(sum_{k >= 0} (-1)^k J^k dJ).

Hutchinson's estimator replaces each trace by v^T J^k v. An estimator chooses the weights w_k
of the terms; value and (Neumann) gradient come from the same products, and gradients of the
gradient's sum are stopped, so that memory does not grow with the number of terms.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.functions import Function, Parameters

_PROBES = {"rademacher": randomness.rademacher, "gaussian": randomness.normal}


def _at_least(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or int(value) != value or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
    return int(value)


class LogDetEstimator(abc.ABC):
    """Turns a branch g at x into ln|det(I + J_g(x))| per example, with its gradient."""

    #: Whether two seeds give two values.
    stochastic: bool = True

    @abc.abstractmethod
    def __call__(
        self, function: Function, parameters: Parameters, x: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Evaluates g and the log-determinant.

        Args:
          function: the branch g as a `tf_iresnet.functions.Function`.
          parameters: its parameters.
          x: [batch, ...], the dtype that g computes in.
          seed: int32 [3], see `tf_iresnet.randomness`.

        Returns:
          g(x), and the log-determinant [batch] in nats, float32 or wider. Both are
          differentiable once in x and the parameters, for any upstream gradient.
        """

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LogDetEstimator:
        """Builds the estimator from `get_config`'s result."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((type(self), tuple(sorted(self.get_config().items()))))


def _flat_dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(a * b, axis=list(range(1, a.shape.rank)))


def _per_example(scale: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return tf.reshape(scale, [-1] + [1] * (like.shape.rank - 1))


def _wide(dtype: tf.DType) -> tf.DType:
    return tf.float64 if dtype == tf.float64 else tf.float32


class SeriesEstimator(LogDetEstimator):
    """The power series with Hutchinson probes; subclasses choose the weights of its terms."""

    def __init__(self, probes: int = 1, probe_distribution: str = "rademacher") -> None:
        self.probes = _at_least("probes", probes, 1)
        if probe_distribution not in _PROBES:
            raise ValueError(
                f"probe_distribution must be one of {sorted(_PROBES)}, got {probe_distribution!r}."
            )
        self.probe_distribution = probe_distribution

    @abc.abstractmethod
    def terms_and_weights(
        self, seed: tf.Tensor, dtype: tf.DType
    ) -> tuple[tf.Tensor | int, Callable[[tf.Tensor], tf.Tensor]]:
        """Returns the number of terms n and k -> w_k for k = 1..n (a scalar of ``dtype``)."""

    def get_config(self) -> dict[str, Any]:
        return {"probes": self.probes, "probe_distribution": self.probe_distribution}

    def __call__(self, function, parameters, x, seed):
        function, parameters = function.folded(parameters)
        wide = _wide(x.dtype)
        terms, weight = self.terms_and_weights(randomness.fold_in(seed, 0), wide)
        like = tf.zeros_like(x, dtype=wide)
        probes = [
            _PROBES[self.probe_distribution](randomness.fold_in(seed, 1 + index), like)
            for index in range(self.probes)
        ]

        @tf.custom_gradient
        def evaluate(x, *parameters):
            g, point = function.linearize(parameters, x)
            values, sums, traces = [], [], []
            for probe in probes:
                response, trace = function.respond(parameters, point, tf.cast(probe, x.dtype))
                pull = functools.partial(function.pullback, parameters, point)
                value, total = _series(pull, probe, response, terms, weight)
                values.append(value)
                sums.append(total)
                traces.append(trace)
            value = tf.add_n(values) / self.probes

            def gradient(upstream_g, upstream_value):
                scale = _per_example(upstream_value / self.probes, x)
                pairs = [
                    (trace, tf.cast(scale * total, x.dtype))
                    for trace, total in zip(traces, sums, strict=True)
                ]
                by_x, by_parameters = function.gradient(parameters, point, upstream_g, pairs)
                return (by_x, *by_parameters)

            return (g, value), gradient

        return evaluate(x, *parameters)


def _series(
    pull: Callable[[tf.Tensor], tf.Tensor],
    probe: tf.Tensor,
    response: tf.Tensor,
    terms: tf.Tensor | int,
    weight: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums the terms for one probe.

    Since v^T J^k v = <(J^T)^{k-1} v, J v>, n terms take J v and n - 1 products with J^T.

    Args:
      pull: c -> J^T c.
      probe: v.
      response: J v.
      terms: n.
      weight: k -> w_k.

    Returns:
      sum_{k=1..n} (-1)^{k+1} w_k v^T J^k v / k, [batch], and the cotangent of its gradient,
      sum_{k=0..n-1} (-1)^k w_{k+1} (J^T)^k v.
    """
    wide = probe.dtype
    wide_response = tf.cast(response, wide)

    def add(k, power, value, total):
        """Adds term k, of which power is (J^T)^{k-1} v."""
        scaled = tf.cast(1 - 2 * ((k + 1) % 2), wide) * weight(k) * tf.cast(power, wide)
        return value + _flat_dot(scaled, wide_response) / tf.cast(k, wide), total + scaled

    def step(k, power, value, total):
        power = pull(power)
        return k + 1, power, *add(k, power, value, total)

    power = tf.cast(probe, response.dtype)
    value, total = add(tf.constant(1), power, 0.0, 0.0)
    # Only a roulette without exact terms can draw no term at all.
    some = tf.cast(tf.convert_to_tensor(terms) >= 1, wide)
    start = (tf.constant(2), power, some * value, some * total)
    _, _, value, total = tf.while_loop(lambda k, *_: k <= terms, step, start, parallel_iterations=1)
    return value, total


@keras.saving.register_keras_serializable("tf_iresnet")
class PowerSeries(SeriesEstimator):
    r"""The series cut after n terms: biased by at most d L^{n+1} / ((n+1)(1 - L)) nats.

    Value: sum_{k=1..n} (-1)^{k+1} v^T J^k v / k, averaged over the probes v; the gradient is
    that of the value's expectation.

    Args:
      terms: n, at least 1.
      probes: independent probes per example and call.
      probe_distribution: "rademacher" (smaller variance for near-diagonal Jacobians) or
        "gaussian".

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> PowerSeries(terms=5)
    PowerSeries(probes=1, probe_distribution='rademacher', terms=5)

    Source: Invertible Residual Networks, algorithm 2 and theorem 3.
    """

    def __init__(
        self, terms: int = 10, probes: int = 1, probe_distribution: str = "rademacher"
    ) -> None:
        super().__init__(probes, probe_distribution)
        self.terms = _at_least("terms", terms, 1)

    def get_config(self):
        return {**super().get_config(), "terms": self.terms}

    def terms_and_weights(self, seed, dtype):
        return self.terms, lambda k: tf.ones([], dtype)


@keras.saving.register_keras_serializable("tf_iresnet")
class RussianRoulette(SeriesEstimator):
    r"""The unbiased series: exact terms, then N random ones with compensating weights.

    Draws N once per call, shared by the batch. Term k has weight 1 for k <= m and
    1 / P(N >= k - m) for m < k <= m + N; the gradient uses the same weights. With rho the
    spectral radius of J, the geometric law has finite variance only for rho^2 < 1 - p, and
    Poisson's variance is never finite.

    Args:
      exact_terms: m, at least 0.
      distribution: "geometric" (N >= 1, P(N >= j) = (1 - p)^{j-1}) or "poisson" (N >= 0).
      probability: p of the geometric law, in (0, 1); 1 / p random terms on average.
      rate: mean of the Poisson law, positive.
      probes: independent probes per example and call; they share N.
      probe_distribution: "rademacher" or "gaussian".

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> RussianRoulette(exact_terms=20, probability=0.1).expected_terms
    30.0

    Source: Residual Flows for Invertible Generative Modeling, theorems 1 and 2.
    """

    def __init__(
        self,
        exact_terms: int = 2,
        distribution: str = "geometric",
        probability: float = 0.5,
        rate: float = 2.0,
        probes: int = 1,
        probe_distribution: str = "rademacher",
    ) -> None:
        super().__init__(probes, probe_distribution)
        self.exact_terms = _at_least("exact_terms", exact_terms, 0)
        if distribution not in ("geometric", "poisson"):
            raise ValueError(
                f'distribution must be "geometric" or "poisson", got {distribution!r}.'
            )
        if not 0.0 < probability < 1.0:
            raise ValueError(f"probability must lie in (0, 1), got {probability}.")
        if not rate > 0.0:
            raise ValueError(f"rate must be positive, got {rate}.")
        self.distribution = distribution
        self.probability = float(probability)
        self.rate = float(rate)

    def get_config(self):
        return {
            **super().get_config(),
            "exact_terms": self.exact_terms,
            "distribution": self.distribution,
            "probability": self.probability,
            "rate": self.rate,
        }

    @property
    def expected_terms(self) -> float:
        """The mean number of vector-Jacobian products per probe."""
        mean = 1.0 / self.probability if self.distribution == "geometric" else self.rate
        return self.exact_terms + mean

    def draw(self, seed: tf.Tensor) -> tf.Tensor:
        """Draws N, an int32 scalar, as a function of the seed's key."""
        # Inversion: N >= j exactly if u <= P(N >= j), for u uniform on (0, 1].
        u = 1.0 - randomness.shared_uniform(seed, dtype=tf.float64)
        if self.distribution == "poisson":
            # What lies beyond is less likely than the smallest u.
            j = tf.range(1, 30 + int(self.rate + 12 * math.sqrt(self.rate)))
            return tf.reduce_sum(tf.cast(u <= self.survival(j, tf.float64), tf.int32))
        q = tf.math.log(tf.constant(1.0 - self.probability, tf.float64))
        return 1 + tf.cast(tf.floor(tf.math.log(u) / q), tf.int32)

    def survival(self, j: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Returns P(N >= j), a scalar of ``dtype``; 1 for j <= 0."""
        least = 1 if self.distribution == "geometric" else 0
        j = tf.cast(tf.maximum(j - least, 0), dtype)
        if self.distribution == "geometric":
            return tf.pow(tf.constant(1.0 - self.probability, dtype), j)
        tail = tf.math.igamma(tf.maximum(j, 1), tf.constant(self.rate, dtype))
        return tf.where(j > 0, tail, tf.ones_like(tail))

    def terms_and_weights(self, seed, dtype):
        exact = self.exact_terms
        return exact + self.draw(seed), lambda k: 1 / self.survival(k - exact, dtype)


@keras.saving.register_keras_serializable("tf_iresnet")
class Exact(LogDetEstimator):
    r"""The log-determinant itself, from the dense Jacobian: d products for d dimensions.

    The gradient is tr((I + J)^{-1} dJ), exact as well, with memory for one block of columns.

    Args:
      rows: how many rows of the Jacobian are computed at once.

    Raises:
      ValueError: if ``rows`` is below 1.

    Example:
    >>> Exact().stochastic
    False
    """

    stochastic = False

    def __init__(self, rows: int = 16) -> None:
        self.rows = _at_least("rows", rows, 1)

    def get_config(self):
        return {"rows": self.rows}

    def __call__(self, function, parameters, x, seed=None):
        parameters = list(parameters)
        size = x.shape[1:].num_elements()
        if size is None:
            raise ValueError(f"Exact needs a static event shape, got a tensor of shape {x.shape}.")
        rows = min(self.rows, size)
        blocks = -(-size // rows)
        wide = _wide(x.dtype)

        def units(block, batch):
            """The block's unit vectors, [rows * batch, *event]; past the last one, zeros."""
            unit = tf.one_hot(block * rows + tf.range(rows), size, dtype=x.dtype)
            return tf.reshape(tf.repeat(unit, batch, axis=0), [-1, *x.shape[1:]])

        @tf.custom_gradient
        def evaluate(x, *parameters):
            batch = tf.shape(x)[0]
            tiled = tf.tile(x, [rows] + [1] * (x.shape.rank - 1))
            tiled_g, point = function.linearize(parameters, tiled)

            def fill(block, array):
                pulled = function.pullback(parameters, point, units(block, batch))
                pulled = tf.reshape(tf.cast(pulled, wide), [rows, batch, size])
                return block + 1, array.write(block, pulled)

            array = tf.TensorArray(wide, size=blocks, element_shape=[rows, None, size])
            _, array = tf.while_loop(
                lambda block, _: block < blocks, fill, (0, array), parallel_iterations=1
            )
            jacobian = tf.transpose(
                tf.reshape(array.stack(), [blocks * rows, batch, size])[:size], [1, 0, 2]
            )
            matrix = tf.eye(size, dtype=wide) + jacobian
            value = tf.linalg.slogdet(matrix).log_abs_determinant

            def gradient(upstream_g, upstream_value):
                # <c, dJ e_j> summed over j, where c is the row j of the inverse.
                inverse = tf.linalg.inv(matrix) * upstream_value[:, None, None]
                inverse = tf.pad(inverse, [[0, 0], [0, blocks * rows - size], [0, 0]])
                inverse = tf.reshape(inverse, [batch, blocks, rows, size])
                zeros = tf.zeros_like(tiled_g)

                def add(block, *totals):
                    cotangent = tf.transpose(inverse[:, block], [1, 0, 2])
                    cotangent = tf.cast(tf.reshape(cotangent, tf.shape(tiled)), x.dtype)
                    _, trace = function.respond(parameters, point, units(block, batch))
                    by_x, by_parameters = function.gradient(
                        parameters, point, zeros, [(trace, cotangent)]
                    )
                    by_x = tf.reduce_sum(
                        tf.reshape(by_x, tf.concat([[rows], tf.shape(x)], axis=0)), axis=0
                    )
                    new = [by_x, *by_parameters]
                    return (block + 1, *(a + b for a, b in zip(totals, new, strict=True)))

                plain_g, plain_point = function.linearize(parameters, x)
                del plain_g
                by_x, by_parameters = function.gradient(parameters, plain_point, upstream_g)
                _, *totals = tf.while_loop(
                    lambda block, *_: block < blocks,
                    add,
                    (0, by_x, *by_parameters),
                    parallel_iterations=1,
                )
                return tuple(totals)

            return (tiled_g[:batch], value), gradient

        return evaluate(x, *parameters)
