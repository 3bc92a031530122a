"""The power series with Hutchinson probes, and its truncation."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tf_iresnet import batches, randomness
from tf_iresnet.arguments import check_choice, check_flag, check_integer
from tf_iresnet.functions import Function, Parameters, Residuals
from tf_iresnet.log_det.control_variate import control_variate, linearize_branch
from tf_iresnet.log_det.estimator import LogDetEstimator, wide_dtype
from tf_iresnet.tensorflow_private import by_xla
from tf_iresnet.typing import Config

_PROBES = {"rademacher": randomness.rademacher, "gaussian": randomness.normal}


class SeriesEstimator(LogDetEstimator):
    """The power series with Hutchinson probes; subclasses choose the weights of its terms.

    Args:
      probes: independent probes per example and call.
      probe_distribution: "rademacher" or "gaussian".
      control_variate: whether to subtract noise of known expectation, see
        `tf_iresnet.log_det.control_variate`.

    Raises:
      ValueError: if an argument is out of range.

    Example:
    >>> from tf_iresnet.log_det import PowerSeries
    >>> PowerSeries(terms=5).certain_terms
    5

    Source: Invertible Residual Networks, section 3.2; Residual Flows, section 3.
    """

    def __init__(
        self,
        probes: int = 1,
        probe_distribution: str = "rademacher",
        control_variate: bool = False,
    ) -> None:
        self.probes = check_integer("probes", probes, 1)
        self.control_variate = check_flag("control_variate", control_variate)
        self.probe_distribution = check_choice(
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

    def get_config(self) -> Config:
        return {
            "probes": self.probes,
            "probe_distribution": self.probe_distribution,
            "control_variate": self.control_variate,
        }

    def __call__(self, function, parameters, x, seed):
        function, parameters = function.fold(parameters)
        wide = wide_dtype(x.dtype)
        terms, weight = self.terms_and_weights(randomness.fold_in(seed, 0), wide)
        like = tf.zeros_like(x, dtype=wide)
        probes = [
            _PROBES[self.probe_distribution](randomness.fold_in(seed, 1 + index), like)
            for index in range(self.probes)
        ]

        @tf.custom_gradient
        def evaluate(x, *parameters):
            g, residuals = function.linearize(parameters, x)
            known = None
            if self.control_variate and self.certain_terms >= 2:
                known = linearize_branch(function, parameters, residuals, wide)
            batch = _OrderedBatch(function, parameters, residuals, terms)
            values, sums, tangents = [], [], []
            for probe in probes:
                narrow = tf.cast(probe, x.dtype)
                product, of_probe = function.jvp(parameters, residuals, narrow)
                powers = [narrow]
                if known is not None:
                    pulled = known.pull_inner(narrow)
                    powers.append(known.pull(pulled))
                value, total = _sum_terms(batch, powers, tf.cast(product, wide), weight)
                if known is not None:
                    value -= control_variate(known, probe, tf.cast(pulled, wide))
                values.append(value)
                sums.append(total)
                tangents.append(of_probe)
            value = tf.add_n(values) / self.probes

            def gradient(upstream_g, upstream_value):
                scale = batches.expand_like(upstream_value / self.probes, x)
                products = [
                    (of_probe, tf.cast(scale * total, x.dtype))
                    for of_probe, total in zip(tangents, sums, strict=True)
                ]
                by_x, by_parameters = function.gradient(parameters, residuals, upstream_g, products)
                return (by_x, *by_parameters)

            return (g, value), gradient

        return evaluate(x, *parameters)


class _OrderedBatch:
    """The examples of a batch, with products J^T v and the number of terms of each.

    Where these numbers differ and the residuals can be taken apart, the examples are sorted, those
    of most terms first. The examples with a term k are then the first rows, and only they are
    multiplied.
    """

    def __init__(
        self,
        function: Function,
        parameters: Parameters,
        residuals: Residuals,
        terms: tf.Tensor | int,
    ) -> None:
        self.function, self.parameters = function, parameters
        self.terms = tf.convert_to_tensor(terms)
        self.most = tf.reduce_max(self.terms)
        self.order: tf.Tensor | None = None
        # Under XLA no shape may depend on values.
        if self.terms.shape.rank and not by_xla():
            order = tf.argsort(self.terms, direction="DESCENDING")
            in_order = function.take_examples(residuals, lambda leaf: tf.gather(leaf, order))
            if in_order is not None:
                self.order, residuals = order, in_order
                self.terms = tf.gather(self.terms, order)
        self.residuals = residuals

    def sort(self, values: tf.Tensor) -> tf.Tensor:
        """Returns rows of the batch in this order."""
        return values if self.order is None else tf.gather(values, self.order)

    def unsort(self, values: tf.Tensor) -> tf.Tensor:
        """Undoes `sort`."""
        if self.order is None:
            return values
        return tf.gather(values, tf.math.invert_permutation(self.order))

    def count_with_term(self, k: tf.Tensor) -> tf.Tensor | None:
        """Returns how many rows have a term k; None if the rows are not sorted."""
        if self.order is None:
            return None
        return tf.reduce_sum(tf.cast(self.terms >= k, tf.int32))

    def vjp(self, cotangent: tf.Tensor, rows: tf.Tensor | None) -> tf.Tensor:
        """Returns J^T cotangent for the first ``rows`` examples; None stands for all."""
        residuals = self.residuals
        if rows is not None:
            residuals = self.function.take_examples(residuals, lambda leaf: _first_rows(leaf, rows))
        return self.function.vjp(self.parameters, residuals, cotangent)


def _sum_terms(
    batch: _OrderedBatch,
    powers: Sequence[tf.Tensor],
    product: tf.Tensor,
    weight: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums the terms for one probe.

    Since v^T J^k v = <(J^T)^{k-1} v, J v>, n terms take J v and n - 1 products with J^T. An example
    is left out after its last term.

    Args:
      batch: the products with J^T, and n: at least ``len(powers)``; 0 as well for v alone.
      powers: v and, if they are known already, J^T v, (J^T)^2 v, ...
      product: J v, in the dtype of the sums.
      weight: k -> w_k.

    Returns:
      sum_{k=1..n} (-1)^{k+1} w_k v^T J^k v / k, [batch], and the cotangent of its gradient,
      sum_{k=0..n-1} (-1)^k w_{k+1} (J^T)^k v.
    """
    wide = product.dtype
    product = batch.sort(product)
    terms = batch.terms

    def add(k, rows, power, value, total):
        """Adds term k to the examples that have it; power is (J^T)^{k-1} v."""
        factor = tf.cast(1 - 2 * ((k + 1) % 2), wide) * weight(k)
        if rows is not None:
            scaled = factor * tf.cast(power, wide)
            term = batches.dot(scaled, product[:rows]) / tf.cast(k, wide)
            return value + _pad_rows(term, value), total + _pad_rows(scaled, total)
        factor = tf.where(k <= terms, factor, tf.zeros_like(factor))
        if terms.shape.rank:  # after its last term an example's power may be infinite or NaN
            power = tf.where(batches.expand_like(k <= terms, power), power, tf.zeros_like(power))
            factor = batches.expand_like(factor, power)
        scaled = factor * tf.cast(power, wide)
        return value + batches.dot(scaled, product) / tf.cast(k, wide), total + scaled

    def step(k, power, value, total):
        rows = batch.count_with_term(k)
        power = batch.vjp(_first_rows(power, rows), rows)
        return k + 1, power, *add(k, rows, power, value, total)

    value, total = tf.zeros(tf.shape(product)[:1], wide), tf.zeros_like(product)
    for k, power in enumerate(map(batch.sort, powers), 1):
        rows = batch.count_with_term(tf.constant(k))
        value, total = add(tf.constant(k), rows, _first_rows(power, rows), value, total)
    state = (tf.constant(len(powers) + 1), power, value, total)
    shapes = [tensor.shape for tensor in state]
    if batch.order is not None:
        shapes[1] = tf.TensorShape([None, *power.shape[1:]])
    *_, value, total = tf.while_loop(
        lambda k, *_: k <= batch.most,
        step,
        state,
        shape_invariants=tuple(shapes),
        parallel_iterations=1,
    )
    return batch.unsort(value), batch.unsort(total)


def _first_rows(values: tf.Tensor, rows: tf.Tensor | None) -> tf.Tensor:
    return values if rows is None else values[:rows]


def _pad_rows(rows: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Appends rows of zeros, to as many as another tensor has."""
    missing = tf.shape(like)[0] - tf.shape(rows)[0]
    paddings = tf.concat([[[0, missing]], tf.zeros([rows.shape.rank - 1, 2], tf.int32)], 0)
    return tf.ensure_shape(tf.pad(rows, paddings), like.shape)


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
        self.terms = check_integer("terms", terms, 1)

    def get_config(self):
        return {**super().get_config(), "terms": self.terms}

    @property
    def certain_terms(self):
        return self.terms

    def terms_and_weights(self, seed, dtype):
        return self.terms, lambda k: tf.ones([], dtype)
