"""Models of p(x) and p(y | x) on one stack of invertible residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.arguments import check_integer, check_real
from tf_iresnet.log_det import LogDetEstimator
from tf_iresnet.models.architecture import IResNet
from tf_iresnet.models.density import DensityModel
from tf_iresnet.models.head import LatentHead
from tf_iresnet.models.joint import JointLikelihood
from tf_iresnet.options import takes
from tf_iresnet.typing import ArrayLike, Config, Context, Seed


@keras.saving.register_keras_serializable("tf_iresnet")
class IResNetHybrid(DensityModel):
    r"""A density p(x) = N(f(x)) \|det df/dx\| and a classifier p(y | x) = softmax(head(f(x)))_y.

    Both are trained at once. The loss of one example is

        -log2 p(x) / d  -  classification_weight * sum_k q_k ln p(k | x)

    that is bits/dim plus the weight times a cross-entropy in nats. Here q_k = 1 - s + s/K for k = y
    and s/K otherwise, with s the label smoothing and K the number of classes. With a weight of
    1 / (d ln 2) and no smoothing it is the joint -log2 p(x, y) / d. The head sees the latents of
    all scales.

    ``fit`` takes x as `IResNetFlow` does, and labels y: integers in [0, K), [batch] or
    [batch, 1]. Its metrics are the loss, bits/dim, accuracy and the cross-entropy without smoothing
    in nats. `call` and ``predict`` give logits.

    Args:
      event_shape: shape of one example, (height, width, channels) or (d,).
      classes: number of classes K, at least 2.
      classification_weight: of the cross-entropy in nats, beside bits/dim; above 0.
      label_smoothing: s, in [0, 1).
      head_width: features that the head takes from each scale's latents.
      architecture: an `IResNet`, whose options are keywords here, too.
      **flow: all other arguments of `IResNetFlow`, except for ``context_size``.

    Raises:
      ValueError: if an argument is out of range, or a size does not divide.

    Example:
    >>> model = IResNetHybrid((2,), 3, levels=None, blocks=(2,), hidden=8)
    >>> log_prob, logits = model.log_prob_and_logits(np.zeros((4, 2), "float32"), seed=0)
    >>> log_prob.shape, logits.shape
    (TensorShape([4]), TensorShape([4, 3]))

    Source: Residual Flows, section 5.4.
    """

    objective: JointLikelihood

    @takes(IResNet, "architecture", DensityModel, coeff=0.98)
    def __init__(
        self,
        event_shape: Sequence[int],
        classes: int,
        *,
        classification_weight: float = 1.0,
        label_smoothing: float = 0.0,
        head_width: int = 64,
        architecture: IResNet,
        **flow: Any,
    ) -> None:
        if flow.get("context_size") is not None:
            raise ValueError(
                f"context_size={flow['context_size']!r} is for IResNetFlow; a hybrid's density "
                "takes no context, leave it out."
            )
        weight = check_real(
            "classification_weight",
            classification_weight,
            "must be a finite number above 0",
            lambda value: value > 0,
        )
        smoothing = check_real(
            "label_smoothing",
            label_smoothing,
            "must be a finite number in [0, 1)",
            lambda value: 0 <= value < 1,
        )
        # Set past Keras, whose constructor must run before attributes are set: the density's
        # constructor calls that one, and builds the model from these.
        self.__dict__.update(
            classes=check_integer("classes", classes, 2),
            head_width=check_integer("head_width", head_width, 1),
            _entropy={"weight": weight, "smoothing": smoothing},
        )
        super().__init__(event_shape, architecture, **flow)

    def _make_objective(self, **options: Any) -> JointLikelihood:
        self.head = LatentHead(self.classes, self.head_width, dtype=self.dtype_policy, name="head")
        self.head.build([(None, *shape) for shape in self._scales.latent_shapes])
        parts = {"scales": self._scales, "head": self.head, **self.__dict__.pop("_entropy")}
        owner, event = f"the hybrid {self.name}", self._make_event()
        return JointLikelihood(owner, event, self._density, **parts, **options)

    @property
    def classification_weight(self) -> float:
        """The weight of the cross-entropy in nats, beside bits/dim."""
        return self.objective.weight

    @property
    def label_smoothing(self) -> float:
        """The share of the labels that goes to all classes alike."""
        return self.objective.smoothing

    # --- both heads ---

    def call(
        self, x: ArrayLike, training: bool | None = None, context: Context = None
    ) -> tf.Tensor:
        """Returns the logits, [batch, classes]; there is no context."""
        x = self._event.check(x)
        z = self.flow.evaluate(x, bool(training), self._check_context(context, x))
        return self.objective.logits(z, bool(training))

    def log_prob_and_logits(
        self, x: ArrayLike, seed: Seed = None, log_det: LogDetEstimator | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `log_prob` and the logits from one pass through the blocks.

        Args:
          x: as in `log_prob`.
          seed: as in `log_prob`.
          log_det: as in `log_prob`.

        Returns:
          ln p(x) in nats, [batch], and the logits, [batch, classes].

        Raises:
          ValueError: as in `log_prob`.
        """
        z, log_prob = self._latents_and_log_prob(x, seed, log_det)
        return log_prob, self.objective.logits(z, False)

    def get_config(self) -> Config:
        config = super().get_config()
        del config["context_size"]
        return {
            **config,
            **self.architecture.get_config(),
            "classes": self.classes,
            "classification_weight": self.classification_weight,
            "label_smoothing": self.label_smoothing,
            "head_width": self.head_width,
        }
