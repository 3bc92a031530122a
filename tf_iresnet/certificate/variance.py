"""Mean and variance of estimated log-determinants, and whether the variance is proven finite."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.autograph import as_written
from tf_iresnet.certificate import Certificate, certify, residual_blocks
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.log_det import LogDetEstimator
from tf_iresnet.typing import ArrayLike, Context, Seed


class InfiniteVarianceWarning(RuntimeWarning):
    """The proven bound of a block does not exclude an infinite variance of its estimator."""


class LogDetStatistics(NamedTuple):
    """What independent draws of an estimator say, per example.

    Args:
      mean: of the draws, in nats, [batch]; its own variance is ``variance / draws``.
      variance: of one draw, in square nats, [batch], without bias.
      draws: how many there were.
      proven_finite: whether the blocks' bounds exclude an infinite variance.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    draws: int
    proven_finite: bool


@as_written
def log_det_statistics(
    layer: InvertibleLayer,
    x: ArrayLike,
    seed: Seed = None,
    log_det: LogDetEstimator | None = None,
    draws: int = 16,
    context: Context = None,
    certificate: Certificate | None = None,
) -> LogDetStatistics:
    r"""Returns the mean and the variance of ln\|det dy/dx\| over independent draws.

    Args:
      layer: any invertible layer.
      x: [batch, ...].
      seed: as in `InvertibleLayer.forward_and_log_det`.
      log_det: an estimator that replaces that of every residual block.
      draws: how many, at least 2.
      context: [batch, context_size], for a conditional layer.
      certificate: of the layer as it is; None proves the bounds of its blocks first, which takes
        seconds for a large model.

    Returns:
      The statistics, float32 or wider.

    Raises:
      ValueError: if ``draws`` is below 2.

    Warns:
      InfiniteVarianceWarning: if the Lipschitz bound of a block allows that its estimator has no
        finite variance, or a block has no bound; then ``variance``, though finite, may be far too
        small.

    Example:
    >>> from tf_iresnet.layers import InvertibleResidual
    >>> from tf_iresnet.log_det import PowerSeries
    >>> block = InvertibleResidual(hidden=8, log_det=PowerSeries(terms=5))
    >>> statistics = log_det_statistics(block, np.ones((4, 3), "float32"), seed=0)
    >>> statistics.variance.shape, statistics.draws
    (TensorShape([4]), 16)

    Source: Residual Flows for Invertible Generative Modeling, section 3.1.
    """
    if isinstance(draws, bool) or int(draws) != draws or draws < 2:
        raise ValueError(f"draws must be an integer of at least 2, got {draws!r}.")
    x = tf.convert_to_tensor(x)
    seed = randomness.as_seed(seed)
    if not layer.built:
        layer.build(tuple(x.shape))
    doubt = doubt_of_variance(layer, log_det, certificate)
    if doubt:
        warnings.warn(doubt, InfiniteVarianceWarning, stacklevel=2)

    @as_written
    def value(draw: tf.Tensor) -> tf.Tensor:
        own = randomness.fold_in(seed, draw)
        return layer.forward_and_log_det(x, own, log_det, context=context)[1]

    values = tf.map_fn(
        value,
        tf.range(draws),
        fn_output_signature=tf.float64 if layer.variable_dtype == "float64" else tf.float32,
    )
    mean = tf.reduce_mean(values, axis=0)
    variance = tf.reduce_sum(tf.square(values - mean), axis=0) / (draws - 1)
    return LogDetStatistics(mean, variance, int(draws), not doubt)


def doubt_of_variance(
    layer: InvertibleLayer,
    log_det: LogDetEstimator | None = None,
    certificate: Certificate | None = None,
) -> str:
    """Says which block's estimate may have an infinite variance.

    Args:
      layer: any invertible layer, built.
      log_det: an estimator that replaces that of every residual block.
      certificate: of the layer as it is; None proves the bounds of its blocks first.

    Returns:
      A sentence; an empty one where the blocks' bounds exclude an infinite variance.

    Example:
    >>> from tf_iresnet.layers import InvertibleResidual
    >>> from tf_iresnet.log_det import PowerSeries
    >>> block = InvertibleResidual(hidden=8)
    >>> block.build((None, 3))
    >>> doubt_of_variance(block, PowerSeries(terms=5))
    ''

    Source: Residual Flows for Invertible Generative Modeling, section 3.1.
    """
    blocks = list(residual_blocks(layer))
    if not blocks:  # no series
        return ""
    if certificate is None:
        try:
            with tf.init_scope():  # out of a graph: a bound is proven from the kernels' values
                certificate = certify(layer)
        except ValueError as error:
            return f"nothing excludes an infinite variance: {error}"
    bounds = {block.name: block.bound for block in certificate.blocks}
    for name, block in blocks:
        estimator = block.log_det if log_det is None else log_det
        bound = bounds.get(name, math.inf)  # none is known inside a composition of another class
        if not estimator.has_finite_variance(bound):
            return (
                f"{name}: with a Lipschitz bound of {bound:.4g} the variance of "
                f"{estimator} may be infinite; lower its probability or the block's coeff."
            )
    return ""
