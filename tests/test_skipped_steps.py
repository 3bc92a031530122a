"""Training steps whose loss or gradient is not finite."""

import keras
import numpy as np
import pytest
import small_models as small
import tensorflow as tf

X = small.pixels(8)
Y = np.arange(8) % 3


def make(kind, **optimizer):
    adam = keras.optimizers.Adam(0.05, weight_decay=0.01, **optimizer)
    if kind == "flow":
        model = small.flow((4, 4, 1), blocks=(1,), hidden=4, ema_momentum=0.9)
        model.compile(adam, run_eagerly=True)
    else:
        model = small.classifier(blocks=(1,), hidden=4, ema_momentum=0.9)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(adam, loss=loss, metrics=["accuracy"], run_eagerly=True)
    model.adapt(X)
    return model, tf.function(model.train_step, autograph=False)


def batch(kind, bad=False):
    x = np.where(np.arange(8).reshape(8, 1, 1, 1) == 3, np.nan if bad else X, X)
    data = tf.constant(x, tf.float32)
    return data if kind == "flow" else (data, tf.constant(Y))


def state(model):
    """All that a step changes, but the power iteration's vectors and the number of steps."""
    kept = [v for v in model.weights if v.path.rsplit("/", 1)[-1] not in ("u", "v")]
    kept += [v for v in model.optimizer.variables if v is not model.steps_taken]
    return small.values([*kept, *model.metrics_variables])


@pytest.mark.parametrize("kind", ["flow", "classifier"])
def test_a_bad_step_changes_nothing_but_counts(kind):
    model, step = make(kind)
    step(batch(kind))
    before = state(model)
    for count in (1, 2):
        logs = step(batch(kind, bad=True))
        assert model.step_counters.numpy().tolist() == [count, count]
        assert np.isfinite(float(logs["loss"]))
    small.assert_same(state(model), before)
    assert int(model.steps_taken) == 3
    step(batch(kind))
    assert model.step_counters.numpy().tolist() == [2, 0]
    changed = [np.any(a != b) for a, b in zip(state(model), before, strict=True)]
    assert sum(changed) > len(changed) / 2


def test_a_bad_part_of_an_accumulated_gradient_counts_as_zero():
    # Plain descent: the mean over two parts, of which one is bad, is half of the other.
    models = [small.flow((2,), levels=None, blocks=(1,), hidden=4) for _ in range(2)]
    moved = []
    for model, parts in zip(models, (2, None), strict=True):
        model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=parts))
        x = tf.constant(small.points(8, 2))
        model.adapt(x)
        start = small.values(model.trainable_variables)
        run = tf.function(model.train_step, autograph=False)
        if parts:
            run(np.nan * x)
        model.steps_taken.assign(1)  # the same noise
        run(x)
        ends = small.values(model.trainable_variables)
        moved.append([b - a for a, b in zip(start, ends, strict=True)])
    for halved, full in zip(*moved, strict=True):
        np.testing.assert_allclose(halved, full / 2, rtol=1e-3, atol=1e-5)
