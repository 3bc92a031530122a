"""Training steps whose loss or gradient is not finite."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library import small_models as small
from tf_iresnet.log_det import Exact, PowerSeries
from tf_iresnet.models import SkippedStepsError

X = small.pixels(8)
Y = np.arange(8) % 3
# Quick to trace: it is not the estimates that are tested here.
ESTIMATORS = {"log_det": PowerSeries(terms=1), "eval_log_det": Exact()}
BLOCK = {"blocks": (1,), "hidden": 4, "kernel_sizes": (3, 1)}


def make(kind, **optimizer):
    adam = keras.optimizers.Adam(0.05, weight_decay=0.01, **optimizer)
    if kind == "flow":
        model = small.flow((4, 4, 1), **BLOCK, ema_momentum=0.9, **ESTIMATORS)
        model.compile(adam, run_eagerly=True)
    else:
        model = small.classifier(**BLOCK, ema_momentum=0.9)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(adam, loss=loss, metrics=["accuracy"], run_eagerly=True)
    model.adapt(X)
    model.optimizer.build(model.trainable_variables)  # else the step is traced twice
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
        assert float(logs["skipped_steps"]) == count
    small.assert_same(state(model), before)
    assert int(model.steps_taken) == 3
    step(batch(kind))
    assert model.step_counters.numpy().tolist() == [2, 0]
    changed = [np.any(a != b) for a, b in zip(state(model), before, strict=True)]
    assert sum(changed) > len(changed) / 2


def test_a_bad_part_of_an_accumulated_gradient_counts_as_zero():
    # Plain descent: the mean over two parts, of which one is bad, is half of the other.
    options = {"levels": None, **BLOCK, **ESTIMATORS}
    models = [small.flow((2,), **options) for _ in range(2)]
    moved = []
    for model, parts in zip(models, (2, None), strict=True):
        model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=parts))
        x = tf.constant(small.points(8, 2))
        model.adapt(x)
        start = small.values(model.trainable_variables)
        run = model.train_step
        if parts:  # in a graph, where the optimizer decides by the number of parts
            run = tf.function(run, autograph=False)
            run(np.nan * x)
        model.steps_taken.assign(1)  # the same noise
        run(x)
        ends = small.values(model.trainable_variables)
        moved.append([b - a for a, b in zip(start, ends, strict=True)])
    for halved, full in zip(*moved, strict=True):
        np.testing.assert_allclose(halved, full / 2, rtol=1e-3, atol=1e-5)


# --- what the loops show and when they end ---


ROWS = small.points(48, 2)
BAD = np.where(np.arange(48)[:, None] >= 16, np.nan, ROWS).astype("float32")


def points_flow(**compiled):
    model = small.flow((2,), levels=None, **BLOCK, **ESTIMATORS)
    model.compile(keras.optimizers.SGD(0.01), **compiled)
    model.adapt(ROWS)
    return model


def test_an_epoch_of_skipped_steps_has_no_loss_and_says_so():
    model = points_flow()
    data = tf.data.Dataset.from_tensor_slices(BAD).batch(8)
    best = keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)
    first = model.fit(data.take(2), shuffle=False, verbose=0).history
    history = model.fit(data.skip(2), epochs=2, verbose=0, shuffle=False, callbacks=[best]).history
    assert first["skipped_steps"] == [0]
    assert np.isfinite(first["loss"]).all()
    assert history["skipped_steps"] == [4, 4]
    assert np.isnan(history["loss"]).all()
    assert np.isnan(history["bits_per_dim"]).all()
    assert model.step_counters.numpy().tolist() == [8, 8]
    stop = keras.callbacks.TerminateOnNaN()
    ended = model.fit(data.skip(2), verbose=0, shuffle=False, callbacks=[stop])
    assert model.stop_training
    assert np.isnan(ended.history["loss"]).all()


def test_compiled_metrics_of_skipped_steps_are_no_numbers_either():
    model, _ = make("classifier")
    logs = model.train_on_batch(np.nan * X, Y, return_dict=True)  # the first of all
    assert np.isnan(logs["loss"])
    model.train_on_batch(X, Y)
    logs = model.train_on_batch(np.nan * X, Y, return_dict=True)
    assert np.isnan([logs["loss"], logs["accuracy"]]).all()
    assert logs["skipped_steps"] == 1


def loops(model, bad):
    """Ways to train on batches that are skipped, forever."""
    forever = tf.data.Dataset.from_tensors(bad).repeat()
    yield lambda: model.fit(forever, steps_per_epoch=4, epochs=9, verbose=0, shuffle=False)
    yield lambda: [model.train_on_batch(bad) for _ in range(30)]


@pytest.mark.parametrize(
    "compiled",
    [
        # The next ones' train_on_batch runs a graph of one step, too.
        pytest.param({}, marks=pytest.mark.soak),
        {"steps_per_execution": 2},
        {"run_eagerly": True},
    ],
)
def test_skipped_steps_in_a_row_end_any_loop_with_the_reason(compiled):
    model = points_flow(**compiled)
    model.max_skipped_steps = 6
    before = small.values(model.trainable_variables)
    for loop in loops(model, BAD[16:24]):
        model.step_counters.assign([0, 0])
        with pytest.raises(SkippedStepsError, match=r"^6 training steps .* NaN .*: remove"):
            loop()
        assert model.step_counters.numpy().tolist() == [6, 0]
    small.assert_same(small.values(model.trainable_variables), before)
    model.fit(ROWS[:16], batch_size=8, epochs=2, verbose=0)  # goes on once the cause is mended
    assert model.step_counters.numpy().tolist() == [6, 0]


def test_a_row_within_an_execution_of_several_steps_is_seen():
    model = points_flow(steps_per_execution=4)
    model.max_skipped_steps = 2
    data = tf.data.Dataset.from_tensor_slices(np.concatenate([BAD[8:32], ROWS[:8]])).batch(8)
    assert np.isfinite(list(data)[-1]).all()
    with pytest.raises(SkippedStepsError, match="2 training steps in a row"):
        model.fit(data, verbose=0, shuffle=False)


def test_a_rate_that_diverges_ends_with_what_to_do():
    model = points_flow(run_eagerly=True)
    model.optimizer.learning_rate = 1e30
    with pytest.raises(SkippedStepsError, match=r"not finite; .*: lower the learning rate"):
        model.fit(ROWS, batch_size=8, epochs=20, verbose=0)
    model = points_flow(run_eagerly=True)
    model.max_skipped_steps = None
    model.optimizer.learning_rate = 1e30
    history = model.fit(ROWS, batch_size=8, epochs=3, verbose=0).history
    assert history["skipped_steps"][-1] == 6
    assert np.isnan(history["loss"][-1])


@pytest.mark.soak
def test_compiled_steps_count_and_end_as_others_do():
    model = points_flow(jit_compile=True)
    model.max_skipped_steps = 3
    with pytest.raises(SkippedStepsError, match="3 training steps in a row"):
        model.fit(BAD[16:], batch_size=8, verbose=0)


@pytest.mark.parametrize("kind", ["flow", "classifier"])
@pytest.mark.parametrize("eagerly", [True, False])
def test_evaluation_does_not_drop_bad_rows(kind, eagerly):
    model, _ = make(kind)
    model.run_eagerly = eagerly
    data = (X, *(() if kind == "flow" else (Y,)))
    half = [part[:4] for part in data]
    assert np.isfinite(model.test_on_batch(*half, return_dict=True)["loss"])
    bad = (np.where(np.arange(8).reshape(8, 1, 1, 1) == 3, np.nan, X), *data[1:])
    assert np.isnan(model.evaluate(*bad, batch_size=4, verbose=0, return_dict=True)["loss"])
