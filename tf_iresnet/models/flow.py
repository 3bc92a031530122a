"""Density models of invertible residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tf_iresnet.models.architecture import IResNet
from tf_iresnet.models.density import DensityModel
from tf_iresnet.options import takes
from tf_iresnet.typing import Config


@keras.saving.register_keras_serializable("tf_iresnet")
class IResNetFlow(DensityModel):
    r"""A density p(x) = N(f(x)) \|det df/dx\| with f a stack of invertible residual blocks.

    Images x are pixels: integers in [0, levels), to which the model adds uniform noise, or floats
    that hold their noise. The density is one on the cube of these values, all Jacobians of the
    preprocessing included, and bits/dim = -log2 p(x) / d. Each scale is a squeeze (images only)
    followed by ActNorm and a residual block in turn; the latent is one flat vector. The cheap
    direction is data to latent: `log_prob` is fast, `sample` iterates.

    With a ``context_size`` it is a density p(x | c) for each context c, such as a class as a
    one-hot vector. Linear functions of c shift every bias of the branches, which leaves their
    Lipschitz constants alone, and the prior's mean and log-scale. Every method then takes the
    keyword ``context`` [batch, context_size], and Keras' loops take pairs: ``fit(x, context)``, or
    a data set of (x, context).

    Args:
      event_shape: shape of one example, (height, width, channels) or (d,).
      levels: how many values a pixel takes; None for data that is not quantised.
      preprocessing: "logit", "shift" or "marginal" (a learned `MarginalGaussianization`) for
        images, None for data taken as it is; by default "logit" where there are levels.
      alpha: how far "logit" and "marginal" keep from the ends of the range.
      factor_out: whether half of the channels leave after each scale but the last.
      prior: "learned" for a diagonal normal with trained mean and scale, "standard" for a
        fixed one.
      eval_log_det: estimator of `log_prob`; by default 20 exact terms and a roulette of finite
        variance.
      ema_momentum: of the weights' moving average for evaluation; None for none.
      context_size: features of the context; None for an unconditional density.
      seed: of the noise in training and evaluation.
      blocks: residual blocks of each scale.
      hidden: channels inside the branches, one number or one for each scale.
      coeff: bound of each linear layer's norm, in (0, 1); 0.98 by default.
      architecture: an `IResNet`, whose options, the three above among them, are keywords here,
        too.
      **kwargs: of `keras.Model`.

    Raises:
      ValueError: if an argument is out of range, or a size does not divide.

    Example:
    >>> flow = IResNetFlow((2,), levels=None, blocks=(2,), hidden=8)
    >>> flow.log_prob(np.zeros((3, 2), "float32"), seed=0).shape
    TensorShape([3])
    >>> flow.sample(5, seed=0).shape
    TensorShape([5, 2])

    Source: Invertible Residual Networks, section 5.3; Residual Flows, section 4.
    """

    architecture: IResNet

    @takes(IResNet, "architecture", DensityModel, coeff=0.98)
    def __init__(
        self, event_shape: Sequence[int], *, architecture: IResNet, **options: Any
    ) -> None:
        super().__init__(event_shape, architecture, **options)

    def get_config(self) -> Config:
        return {**super().get_config(), **self.architecture.get_config()}
