"""The power series made unbiased by a random number of terms."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.arguments import check_choice, check_integer, check_real
from tf_iresnet.log_det.series import SeriesEstimator


@keras.saving.register_keras_serializable("tf_iresnet")
class RussianRoulette(SeriesEstimator):
    r"""The unbiased series: exact terms, then N random ones with compensating weights.

    Draws N once per call, shared by the batch; in evaluation one for each example. Term k has
    weight 1 for k <= m and 1 / P(N >= k - m) for m < k <= m + N; the gradient uses the same
    weights. With rho the spectral radius of J, the geometric law has finite variance only for
    rho^2 < 1 - p, and Poisson's variance is never finite.

    Args:
      exact_terms: m, at least 0.
      distribution: "geometric" (N >= 1, P(N >= j) = (1 - p)^{j-1}) or "poisson" (N >= 0).
      probability: p of the geometric law, in (0, 1); 1 / p random terms on average.
      rate: mean of the Poisson law, positive.
      probes: independent probes per example and call; they share N.
      probe_distribution: "rademacher" or "gaussian".
      control_variate: as in `PowerSeries`; needs two terms that are never left out.

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
        control_variate: bool = False,
    ) -> None:
        super().__init__(probes, probe_distribution, control_variate)
        self.exact_terms = check_integer("exact_terms", exact_terms, 0)
        self.distribution = check_choice("distribution", distribution, ("geometric", "poisson"))
        self.probability = check_real(
            "probability", probability, "must lie in (0, 1)", lambda value: 0.0 < value < 1.0
        )
        self.rate = check_real("rate", rate, "must be positive", lambda value: value > 0.0)

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

    @property
    def certain_terms(self):
        return self.exact_terms + (1 if self.distribution == "geometric" else 0)

    def has_finite_variance(self, lipschitz):
        # E w_N^2 |J^N|^2 is a sum of (rho^2 / (1 - p))^j, or of rho^(2 j) j! / rate^j.
        if self.distribution == "poisson":
            return lipschitz == 0.0
        return lipschitz**2 < 1.0 - self.probability

    def draw(self, seed: tf.Tensor) -> tf.Tensor:
        """Draws N, int32, as a function of the seed's key: a scalar, or [batch] of own keys."""
        # Inversion: N >= j exactly if u <= P(N >= j), for u uniform on (0, 1].
        u = 1.0 - randomness.shared_uniform(seed, dtype=tf.float64)
        if self.distribution == "poisson":
            # What lies beyond is less likely than the smallest u.
            j = tf.range(1, 30 + int(self.rate + 12 * math.sqrt(self.rate)))
            return tf.reduce_sum(
                tf.cast(u[..., None] <= self.survival(j, tf.float64), tf.int32), -1
            )
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
