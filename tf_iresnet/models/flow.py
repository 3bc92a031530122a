"""Density models of invertible residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tf_iresnet.arguments import (
    checked_choice,
    checked_flag,
    checked_instance,
    checked_integer,
    checked_integers,
    checked_widths,
)
from tf_iresnet.fixed_point import Picard, Solver
from tf_iresnet.initializers import checked_name
from tf_iresnet.layers.activations import ACTIVATIONS
from tf_iresnet.layers.spectral import checked_coeff, checked_normalization
from tf_iresnet.log_det import LogDetEstimator, RussianRoulette
from tf_iresnet.models.architecture import BRANCHES, flow_scales
from tf_iresnet.models.likelihood import LikelihoodModel


@keras.saving.register_keras_serializable("tf_iresnet")
class IResNetFlow(LikelihoodModel):
    r"""A density p(x) = N(f(x)) \|det df/dx\| with f a stack of invertible residual blocks.

    Images x are pixels, integers in [0, levels), to which the model adds uniform noise, or floats
    that have theirs: the density is one on that cube, all Jacobians of the preprocessing included,
    and bits/dim = -log2 p(x) / d. Each scale is a
    squeeze (images only) followed by ActNorm and a residual block in turn; the latent is one
    flat vector. The cheap direction is data to latent: `log_prob` is fast, `sample` iterates.

    With a ``context_size`` it is a density p(x | c) for each context c, such as a class as a
    one-hot vector: linear functions of c shift every bias of the branches, which leaves their
    Lipschitz constants alone, and the prior's mean and log-scale. Every method then takes the
    keyword ``context`` [batch, context_size], and Keras' loops take pairs: ``fit(x, context)``, or
    a data set of (x, context).

    Args:
      event_shape: shape of one example, (height, width, channels) or (d,).
      levels: how many values a pixel takes; None for data that is not quantised.
      preprocessing: "logit", "shift" or "marginal" (a learned `MarginalGaussianization`) for
        images, None for data taken as it is; by default "logit" where there are levels.
      alpha: how far "logit" and "marginal" keep from the ends of the range.
      blocks: residual blocks of each scale.
      branch: "resnet" (`SpectralBranch`) or "densenet" (`DenseNetBranch`).
      hidden: channels inside the branches of "resnet", one number or one for each scale.
      kernel_sizes: of the branches' convolutions, for "resnet".
      growth: channels that each dense layer of "densenet" appends.
      depth: dense layers of a branch, for "densenet".
      coeff: bound of each linear layer's norm, in (0, 1); None for no constraint.
      activation: of the branches.
      factor_out: whether half of the channels leave after each scale but the last.
      actnorm: whether ActNorm comes before each block.
      whitening: whether each scale's blocks start from uncorrelated channels (`Whitening`).
      prior: "learned" for a diagonal normal with trained mean and scale, "standard" for a
        fixed one.
      power_iterations: of each spectral layer, see `SpectralDense`.
      normalization: "bound" for blocks proven to be invertible in every call, "power_iteration" for
        estimated norms; "auto" takes the bound where it costs at most 5 % of a training step.
      kernel_initializer: of the branches, by name: "delta_orthogonal", which starts with all
        that the bound allows (`tf_iresnet.initializers`), or one of Keras'.
      log_det: estimator in training; by default `RussianRoulette(exact_terms=2)`.
      eval_log_det: estimator of `log_prob`; by default 20 exact terms and a roulette of finite
        variance.
      solver: of the inverse; by default `Picard()`.
      recompute: whether blocks keep their input alone for the backward pass: less memory, more
        time.
      ema_momentum: of the weights' moving average for evaluation; None for none.
      context_size: features of the context; None for an unconditional density.
      seed: of the noise in training and evaluation.
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

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        levels: int | None = 256,
        preprocessing: str | None = "auto",
        alpha: float = 1e-6,
        blocks: Sequence[int] = (8, 8),
        branch: str = "resnet",
        hidden: int | Sequence[int] = 96,
        kernel_sizes: Sequence[int] = (3, 1, 3),
        growth: int = 64,
        depth: int = 3,
        coeff: float | None = 0.98,
        activation: str = "lipswish",
        factor_out: bool = False,
        actnorm: bool = True,
        whitening: bool = False,
        prior: str = "learned",
        power_iterations: int = 4,
        normalization: str = "auto",
        kernel_initializer: str = "glorot_uniform",
        log_det: LogDetEstimator | None = None,
        eval_log_det: LogDetEstimator | None = None,
        solver: Solver | None = None,
        recompute: bool = False,
        ema_momentum: float | None = 0.999,
        context_size: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            event_shape,
            levels=levels,
            preprocessing=preprocessing,
            alpha=alpha,
            factor_out=factor_out,
            prior=prior,
            ema_momentum=ema_momentum,
            context_size=context_size,
            seed=seed,
            **kwargs,
        )
        self.blocks = checked_integers("blocks", blocks, "scale")
        self.branch = checked_choice("branch", branch, BRANCHES)
        self.hidden = checked_widths(hidden, len(self.blocks))
        self.kernel_sizes = checked_integers("kernel_sizes", kernel_sizes, "linear layer")
        self.growth = checked_integer("growth", growth, 1)
        self.depth = checked_integer("depth", depth, 1)
        self.coeff = checked_coeff(coeff)
        self.activation = checked_choice("activation", activation, ACTIVATIONS)
        self.actnorm = checked_flag("actnorm", actnorm)
        self.whitening = checked_flag("whitening", whitening)
        self.power_iterations = checked_integer("power_iterations", power_iterations, 1)
        self.normalization = checked_normalization(normalization)
        self.kernel_initializer = checked_name(kernel_initializer)
        self.log_det = RussianRoulette() if log_det is None else log_det
        if eval_log_det is None:
            eval_log_det = RussianRoulette(exact_terms=20, probability=0.1, control_variate=True)
        self.eval_log_det = eval_log_det
        for name in ("log_det", "eval_log_det"):
            checked_instance(name, getattr(self, name), LogDetEstimator, "Exact()")
        self.solver = Picard() if solver is None else solver
        self.recompute = checked_flag("recompute", recompute)
        checked_instance("solver", self.solver, Solver, "Picard()")
        self._build_flow(flow_scales(self))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "blocks": self.blocks,
            "branch": self.branch,
            "hidden": self.hidden,
            "kernel_sizes": self.kernel_sizes,
            "growth": self.growth,
            "depth": self.depth,
            "coeff": self.coeff,
            "activation": self.activation,
            "actnorm": self.actnorm,
            "whitening": self.whitening,
            "power_iterations": self.power_iterations,
            "normalization": self.normalization,
            "kernel_initializer": self.kernel_initializer,
            "log_det": keras.saving.serialize_keras_object(self.log_det),
            "eval_log_det": keras.saving.serialize_keras_object(self.eval_log_det),
            "solver": keras.saving.serialize_keras_object(self.solver),
            "recompute": self.recompute,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> IResNetFlow:
        config = dict(config)
        for key in ("log_det", "eval_log_det", "solver"):
            config[key] = keras.saving.deserialize_keras_object(config[key])
        return cls(**config)
