"""From an experiment to a compiled model: its optimizer and its loss."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.training.tiny_runs import TINY
from training.data import load_dataset
from training.experiments.catalog import load_experiment
from training.loop.models import SmoothedCrossEntropy, build_model

pytestmark = pytest.mark.quick


def test_weight_decay_is_for_kernels():
    spec = load_dataset("digits").spec
    changes = [*TINY, "optimizer.name=sgd", "optimizer.weight_decay=0.5"]
    model = build_model(load_experiment("digits_flow", changes, steps=4), spec)
    before = [weight.numpy() for weight in model.trainable_variables]
    model.optimizer.apply([tf.zeros_like(weight) for weight in model.trainable_variables])
    for weight, old in zip(model.trainable_variables, before, strict=True):
        changed = weight.path.endswith("/kernel")
        assert np.array_equal(weight.numpy(), old) != changed or not old.any(), weight.path


def test_label_smoothing():
    logits = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]], np.float32)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    labels = np.array([0, 2])
    plain = SmoothedCrossEntropy()(labels, logits)
    np.testing.assert_allclose(plain, -log_p[[0, 1], labels].mean(), rtol=1e-6)
    smooth = SmoothedCrossEntropy(0.3)(labels, logits)
    expected = 0.7 * plain + 0.3 * -log_p.mean()
    np.testing.assert_allclose(smooth, expected, rtol=1e-6)


def test_accumulated_gradients_and_mixed_precision():
    changes = [*TINY, "optimizer.accumulate=2", "precision=mixed_bfloat16"]
    experiment = load_experiment("digits_flow", changes, steps=5)
    model = build_model(experiment, load_dataset("digits").spec)
    assert model.dtype_policy.name == "mixed_bfloat16"
    images = tf.constant(np.random.default_rng(0).uniform(0, 17, (8, 8, 8, 1)), tf.float32)
    model.adapt(images)
    moved = []
    for _ in range(4):
        before = model.trainable_variables[0].numpy()
        model.train_step(images)
        moved.append(bool(np.any(model.trainable_variables[0].numpy() != before)))
    assert moved == [False, True, False, True]
    assert int(model.steps_taken) == 4
    # Keras' schedules count steps, as ours do.
    rate = experiment.optimizer.learning_rate * 0.5 * (1 + math.cos(math.pi * 4 / 5))
    assert float(model.optimizer.learning_rate) == pytest.approx(rate, rel=1e-5)
