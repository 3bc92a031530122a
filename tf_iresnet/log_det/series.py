"""The power series with Hutchinson probes, and its truncation."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.arguments import checked_choice, checked_flag, checked_integer
from tf_iresnet.log_det.control_variate import control_variate, linearized
from tf_iresnet.log_det.estimator import LogDetEstimator, wide_dtype
from tf_iresnet.tensorflow_private import by_xla

# Terms after which examples that have ended are left out: to leave them out costs about a product.
_STAGE = 6
_PROBES = {"rademacher": randomness.rademacher, "gaussian": randomness.normal}


def _flat_dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(a * b, axis=list(range(1, a.shape.rank)))


def _per_example(scale: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return tf.reshape(scale, [-1] + [1] * (like.shape.rank - 1))


class SeriesEstimator(LogDetEstimator):
    """The power series with Hutchinson probes; subclasses choose the weights of its terms."""

    def __init__(
        self,
        probes: int = 1,
        probe_distribution: str = "rademacher",
        control_variate: bool = False,
    ) -> None:
        self.probes = checked_integer("probes", probes, 1)
        self.control_variate = checked_flag("control_variate", control_variate)
        self.probe_distribution = checked_choice(
            "probe_distribution", probe_distribution, sorted(_PROBES)
        )

    @abc.abstractmethod
    def terms_and_weights(
        self, seed: tf.Tensor, dtype: tf.DType
    ) -> tuple[tf.Tensor | int, Callable[[tf.Tensor], tf.Tensor]]:
        """Returns the number of terms n and k -> w_k for k = 1..n (a scalar of ``dtype``).

        n is a number, or one for each example, [batch].
        """

    @property
    @abc.abstractmethod
    def certain_terms(self) -> int:
        """How many terms are never left out."""

    def get_config(self) -> dict[str, Any]:
        return {
            "probes": self.probes,
            "probe_distribution": self.probe_distribution,
            "control_variate": self.control_variate,
        }

    def __call__(self, function, parameters, x, seed):
        function, parameters = function.folded(parameters)
        wide = wide_dtype(x.dtype)
        terms, weight = self.terms_and_weights(randomness.fold_in(seed, 0), wide)
        like = tf.zeros_like(x, dtype=wide)
        probes = [
            _PROBES[self.probe_distribution](randomness.fold_in(seed, 1 + index), like)
            for index in range(self.probes)
        ]

        @tf.custom_gradient
        def evaluate(x, *parameters):
            g, point = function.linearize(parameters, x)
            known = None
            if self.control_variate and self.certain_terms >= 2:
                known = linearized(function, parameters, point, wide)
            pull = functools.partial(function.pullback, parameters, point)

            def pull_of(rows):
                some = function.of_examples(point, rows)
                return functools.partial(function.pullback, parameters, some)

            # Of XLA's shapes none depends on values.
            apart = not by_xla() and function.of_examples(point, tf.range(0)) is not None
            values, sums, traces = [], [], []
            for probe in probes:
                narrow = tf.cast(probe, x.dtype)
                response, trace = function.respond(parameters, point, narrow)
                powers = [narrow]
                if known is not None:
                    pulled = known.pull_inner(narrow)
                    powers.append(known.pull(pulled))
                response = tf.cast(response, wide)
                value, total = _series(
                    pull,
                    powers,
                    response,
                    terms,
                    weight,
                    self.certain_terms,
                    pull_of if apart else None,
                )
                if known is not None:
                    value -= control_variate(known, probe, tf.cast(pulled, wide))
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
    powers: Sequence[tf.Tensor],
    response: tf.Tensor,
    terms: tf.Tensor | int,
    weight: Callable[[tf.Tensor], tf.Tensor],
    certain: int,
    pull_of: Callable[[tf.Tensor], Callable[[tf.Tensor], tf.Tensor]] | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums the terms for one probe.

    Since v^T J^k v = <(J^T)^{k-1} v, J v>, n terms take J v and n - 1 products with J^T. Where n
    differs between examples, those that have ended are left out every `_STAGE` terms, after those
    that every example has.

    Args:
      pull: c -> J^T c.
      powers: v and, if they are known already, J^T v, (J^T)^2 v, ...
      response: J v, in the dtype of the sums.
      terms: n, at least ``len(powers)``; 0 as well for v alone. A number, or [batch].
      weight: k -> w_k.
      certain: how many terms every example has.
      pull_of: places of examples -> their c -> J^T c; None where they cannot be told apart.

    Returns:
      sum_{k=1..n} (-1)^{k+1} w_k v^T J^k v / k, [batch], and the cotangent of its gradient,
      sum_{k=0..n-1} (-1)^k w_{k+1} (J^T)^k v.
    """
    wide = response.dtype
    terms = tf.convert_to_tensor(terms)
    most = tf.reduce_max(terms)

    def add(k, power, value, total, terms, response):
        """Adds term k, of which power is (J^T)^{k-1} v, where an example has so many."""
        factor = tf.cast(1 - 2 * ((k + 1) % 2), wide) * weight(k)
        factor = tf.where(k <= terms, factor, tf.zeros_like(factor))
        if terms.shape.rank:  # what has ended counts no more, whatever has become of it
            power = tf.where(_per_example(k <= terms, power), power, tf.zeros_like(power))
            factor = _per_example(factor, power)
        scaled = factor * tf.cast(power, wide)
        return value + _flat_dot(scaled, response) / tf.cast(k, wide), total + scaled

    def run(pull, last, state, terms, response):
        """Adds the terms up to the last one."""

        def step(k, power, value, total):
            power = pull(power)
            return k + 1, power, *add(k, power, value, total, terms, response)

        return tf.while_loop(lambda k, *_: k <= last, step, state, parallel_iterations=1)

    def nothing(response):
        return tf.zeros(tf.shape(response)[:1], wide), tf.zeros_like(response)

    value, total = nothing(response)
    for k, power in enumerate(powers, 1):
        value, total = add(tf.constant(k), power, value, total, terms, response)
    state = (tf.constant(len(powers) + 1), powers[-1], value, total)
    if not terms.shape.rank or pull_of is None:
        return run(pull, most, state, terms, response)[2:]

    def stage(k, rows, power, value, total):
        """Adds some terms of the examples that have not ended."""
        going = tf.where(tf.gather(terms, rows) >= k)[:, 0]
        rows, power = tf.gather(rows, going), tf.gather(power, going)
        own, own_response = tf.gather(terms, rows), tf.gather(response, rows)
        last = tf.minimum(tf.maximum(k + _STAGE - 1, certain), most)
        start = (k, power, *nothing(own_response))
        k, power, more, more_total = run(pull_of(rows), last, start, own, own_response)
        places = rows[:, None]
        value = tf.tensor_scatter_nd_add(value, places, more)
        return k, rows, power, value, tf.tensor_scatter_nd_add(total, places, more_total)

    k, power, value, total = state
    rows = tf.range(tf.shape(response)[0])
    some = [tf.TensorShape([None, *tensor.shape[1:]]) for tensor in (rows, power)]
    fixed = [tensor.shape for tensor in (k, value, total)]
    return tf.while_loop(
        lambda k, *_: k <= most,
        stage,
        (k, rows, power, value, total),
        shape_invariants=(fixed[0], *some, *fixed[1:]),
        parallel_iterations=1,
    )[3:]


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
      control_variate: whether to subtract from the value the noise of matrices close to J whose
        traces are known, see `tf_iresnet.log_det.control_variate`; expectation and gradient stay.

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> PowerSeries(terms=5)
    PowerSeries(probes=1, probe_distribution='rademacher', control_variate=False, terms=5)

    Source: Invertible Residual Networks, algorithm 2 and theorem 3.
    """

    def __init__(
        self,
        terms: int = 10,
        probes: int = 1,
        probe_distribution: str = "rademacher",
        control_variate: bool = False,
    ) -> None:
        super().__init__(probes, probe_distribution, control_variate)
        self.terms = checked_integer("terms", terms, 1)

    def get_config(self):
        return {**super().get_config(), "terms": self.terms}

    @property
    def certain_terms(self):
        return self.terms

    def terms_and_weights(self, seed, dtype):
        return self.terms, lambda k: tf.ones([], dtype)
