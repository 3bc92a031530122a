"""Density models of the baselines."""

from collections.abc import Sequence
from typing import Any

import keras

from tf_iresnet.arguments import checked_instance
from tf_iresnet.log_det import LogDetEstimator
from tf_iresnet.models.likelihood import LikelihoodModel
from training.baselines.architectures import Architecture


@keras.saving.register_keras_serializable("training")
class BaselineFlow(LikelihoodModel):
    r"""A density p(x) = N(f(x)) \|det df/dx\| with f a baseline's layers.

    All is as in `tf_iresnet.models.IResNetFlow`, but that nothing bounds a Lipschitz constant,
    and that there is no context. Networks compute in the dtype of the weights.

    Args:
        event_shape: shape of one example, (height, width, channels) or (d,).
        architecture: what the scales are made of.
        levels: how many values a pixel takes; None for data that is not quantised.
        preprocessing: "logit", "shift" or "marginal" for images, None for data taken as it is.
        alpha: how far "logit" and "marginal" keep from the ends of the range.
        factor_out: whether half of the channels leave after each scale but the last.
        prior: "learned" or "standard".
        eval_log_det: estimator of `log_prob`; by default the architecture's. It matters for
            FFJORD alone.
        ema_momentum: of the weights' moving average for evaluation; None for none.
        seed: of the noise in training and evaluation.
        **kwargs: of `keras.Model`.

    Raises:
        ValueError: an argument is out of range, or a size does not divide.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        architecture: Architecture,
        *,
        levels: int | None = 256,
        preprocessing: str | None = "auto",
        alpha: float = 1e-6,
        factor_out: bool = False,
        prior: str = "learned",
        eval_log_det: LogDetEstimator | None = None,
        ema_momentum: float | None = 0.999,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(
            event_shape,
            levels=levels,
            preprocessing=preprocessing,
            alpha=alpha,
            factor_out=factor_out,
            prior=prior,
            ema_momentum=ema_momentum,
            context_size=None,
            seed=seed,
            **kwargs,
        )
        self.architecture = checked_instance(
            "architecture", architecture, Architecture, "Glow((4,), 64)"
        )
        self.eval_log_det = architecture.estimator if eval_log_det is None else eval_log_det
        checked_instance("eval_log_det", self.eval_log_det, LogDetEstimator, "Exact()")
        self._build_flow(
            architecture.scales(self.event_shape, self.factor_out, dtype=self.dtype_policy)
        )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["context_size"]
        return {
            **config,
            "architecture": keras.saving.serialize_keras_object(self.architecture),
            "eval_log_det": keras.saving.serialize_keras_object(self.eval_log_det),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "BaselineFlow":
        config = dict(config)
        for key in ("architecture", "eval_log_det"):
            config[key] = keras.saving.deserialize_keras_object(config[key])
        return cls(**config)
