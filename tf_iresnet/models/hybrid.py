"""Models of p(x) and p(y | x) on one stack of invertible residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.arguments import checked_instance, checked_integer, checked_real
from tf_iresnet.log_det import LogDetEstimator
from tf_iresnet.models.flow import IResNetFlow
from tf_iresnet.models.head import LatentHead
from tf_iresnet.models.inputs import Batch, Reader
from tf_iresnet.models.weights import weighted_sum


@keras.saving.register_keras_serializable("tf_iresnet")
class IResNetHybrid(IResNetFlow):
    r"""A density p(x) = N(f(x)) \|det df/dx\| and a classifier p(y | x) = softmax(head(f(x)))_y.

    Both are trained at once. The loss of one example is

        -log2 p(x) / d  -  classification_weight * sum_k q_k ln p(k | x)

    that is bits/dim plus the weight times a cross-entropy in nats, with q_k = 1 - s + s/K for k = y
    and s/K otherwise, s the label smoothing and K the number of classes. A weight of 1 / (d ln 2)
    and no smoothing make it the joint -log2 p(x, y) / d. The head sees the latents of all scales.

    ``fit`` takes x as `IResNetFlow` does, and labels y: integers in [0, K), [batch] or
    [batch, 1]. Its metrics are the loss, bits/dim, accuracy and the cross-entropy without smoothing
    in nats. `call` and ``predict`` give logits.

    Args:
      event_shape: shape of one example, (height, width, channels) or (d,).
      classes: number of classes K, at least 2.
      classification_weight: of the cross-entropy in nats, beside bits/dim; above 0.
      label_smoothing: s, in [0, 1).
      head_width: features that the head takes from each scale's latents.
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

    def __init__(
        self,
        event_shape: Sequence[int],
        classes: int,
        *,
        classification_weight: float = 1.0,
        label_smoothing: float = 0.0,
        head_width: int = 64,
        **flow: Any,
    ) -> None:
        if flow.get("context_size") is not None:
            raise ValueError(
                f"context_size={flow['context_size']!r} is for IResNetFlow; a hybrid's density "
                "takes no context, leave it out."
            )
        # Past Keras, which wants its own constructor first: that of the flow builds the model.
        self.__dict__.update(
            classes=checked_integer("classes", classes, 2),
            classification_weight=checked_real(
                "classification_weight",
                classification_weight,
                "must be a finite number above 0",
                lambda value: value > 0,
            ),
            label_smoothing=checked_real(
                "label_smoothing",
                label_smoothing,
                "must be a finite number in [0, 1)",
                lambda value: 0 <= value < 1,
            ),
            head_width=checked_integer("head_width", head_width, 1),
        )
        super().__init__(event_shape, **flow)

    def _finish_build(self) -> None:
        self.head = LatentHead(self.classes, self.head_width, dtype=self.dtype_policy, name="head")
        self.head.build([(None, *shape) for shape in self._scales.latent_shapes])
        self._entropy_metric = keras.metrics.Mean(name="cross_entropy")
        self._accuracy_metric = keras.metrics.Mean(name="accuracy")
        super()._finish_build()

    # --- what it knows of x ---

    def call(self, x: Any, training: bool | None = None, context: Any = None) -> tf.Tensor:
        """Returns the logits, [batch, classes]; there is no context."""
        x = self._checked(x)
        z = self.flow.forward(x, training=bool(training), **self._given(context, x))
        return self._logits(z, bool(training))

    def _logits(self, z: tf.Tensor, training: bool) -> tf.Tensor:
        return self.head(self._scales.latents(z), training=training)

    def log_prob_and_logits(
        self, x: Any, seed: Any = None, log_det: LogDetEstimator | None = None
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
        x = self._event(x)
        seed = randomness.own_keys(randomness.as_seed(seed), x)
        x = self._checked(x, seed, densities=True)
        estimator = self.eval_log_det if log_det is None else log_det
        checked_instance("log_det", estimator, LogDetEstimator, "Exact()")
        z, log_prob = self._latents_and_log_prob(x, seed, estimator, False)
        return log_prob, self._logits(z, False)

    # --- Keras' loops ---

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        loss = [self.loss_metric] if self.compiled else []
        return [*loss, self._bits_metric, self._entropy_metric, self._accuracy_metric]

    def _reader(self) -> Reader:
        return Reader(f"the hybrid {self.name}", "labels")

    def _check_examples(self, batch: Batch, densities: bool = True) -> None:
        super()._check_examples(batch, densities)
        if batch.y is not None:
            self._labels(batch.y)

    def _labels(self, y: Any) -> tf.Tensor:
        """Returns labels as int32 [batch], refused where they are none of the classes."""
        y = tf.convert_to_tensor(y)
        if y.shape.rank == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.shape.rank != 1:
            raise ValueError(
                f"y must hold integer labels, of the shape [batch] or [batch, 1], got {y.shape}."
            )
        labels = tf.cast(y, tf.int32)
        known = (labels >= 0) & (labels < self.classes) & (tf.cast(labels, y.dtype) == y)
        message = f"y must hold integers from 0 to {self.classes - 1}, the labels"
        if tf.executing_eagerly():
            wrong = tf.boolean_mask(y, ~known)
            if len(wrong):
                raise ValueError(f"{message}, got {wrong[0].numpy()!s}; number the classes so.")
            return labels
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(known), [message, y])]):
            return tf.identity(labels)

    def _loss(self, batch: Batch, first: tf.Tensor, training: bool) -> tuple[tf.Tensor, Any]:
        y = self._labels(batch.y)
        step = tf.convert_to_tensor(self.steps_taken) if training else -1
        estimator = None if training else self.eval_log_det
        seed = self._step_seed(step, first)
        seed = seed if training else randomness.own_keys(seed, batch.x)
        x = self._dequantised(batch.x, seed)
        z, log_prob = self._latents_and_log_prob(x, seed, estimator, training)
        logits, bits = self._logits(z, training), self.to_bits(log_prob)
        log_classes = tf.nn.log_softmax(logits)
        entropy = -tf.gather(log_classes, y, axis=1, batch_dims=1)
        smoothing = self.label_smoothing
        smoothed = (1 - smoothing) * entropy - smoothing * tf.reduce_mean(log_classes, axis=1)
        losses = bits + self.classification_weight * smoothed
        correct = tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == y, bits.dtype)
        correct = tf.where(tf.math.is_nan(entropy), entropy, correct)  # argmax would guess

        def update_metrics() -> None:
            for metric, values in zip(self.metrics, (losses, bits, entropy, correct), strict=True):
                metric.update_state(values, sample_weight=batch.weights)

        return weighted_sum(losses, batch.weights), update_metrics

    def _forward_state(self) -> list[keras.Variable]:
        return self.head.non_trainable_variables

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["context_size"]
        return {
            **config,
            "classes": self.classes,
            "classification_weight": self.classification_weight,
            "label_smoothing": self.label_smoothing,
            "head_width": self.head_width,
        }
