"""Training with Keras' own loops."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library import small_models as small
from tests.library.mirrored import mirrored
from tests.library.reference import conv_matrix
from tf_iresnet.layers import ActNorm
from tf_iresnet.log_det import PowerSeries
from tf_iresnet.models import IResNetFlow

X = small.pixels(96)


POINTS = small.points(96, 2)
# Quick to trace and to run; one drawn term of the series is noise enough.
TINY = {"levels": None, "blocks": (1,), "hidden": 4, "kernel_sizes": (1, 1)}
TINY["log_det"] = PowerSeries(terms=1)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return POINTS[32 * index : 32 * index + 32], np.zeros(32), np.ones(32)


@pytest.fixture(scope="module")
def fitted():
    """A flow trained by `fit` on a dataset, its history and its evaluations."""
    model = small.flow(blocks=(1,), kernel_sizes=(3, 1), coeff=0.7, ema_momentum=0.5)
    model.compile(keras.optimizers.Adam(0.03))
    model.adapt(X[:32])
    before = model.evaluate(X, batch_size=32, verbose=0, return_dict=True)
    # As tuples, which are what arrays become: steps of another structure are traced anew.
    data = tf.data.Dataset.from_tensor_slices((X,)).batch(32)
    history = model.fit(data, epochs=10, validation_data=data, shuffle=False, verbose=0).history
    return model, before, history


def test_fit_improves_bits_per_dim(fitted):
    _, before, history = fitted
    logs = {"loss", "bits_per_dim", "skipped_steps", "val_loss", "val_bits_per_dim"}
    assert set(history) == logs
    assert not any(history["skipped_steps"])
    assert history["loss"] == history["bits_per_dim"]
    assert history["val_loss"][-1] < before["loss"] - 0.1
    assert history["loss"][-1] < history["loss"][0] - 0.1


def test_evaluate_gives_the_validation_s_number_again(fitted):
    model, _, history = fitted
    # Noise is a function of the image's place, whatever the batches.
    value = model.evaluate(X, batch_size=40, verbose=0, return_dict=True)
    np.testing.assert_allclose(value["loss"], history["val_loss"][-1], rtol=1e-4)


def test_the_constraint_holds_after_fit(fitted):
    model, _, _ = fitted
    raw, norms = [], []
    for layer in model.flow.spectral_layers():
        shape = layer.linear_map.spatial_shape
        matrices = [
            conv_matrix(np.asarray(kernel, "float64"), shape)
            for kernel in (layer.kernel, layer.normalized_kernel())
        ]
        large, small_ = (np.linalg.norm(matrix, 2) for matrix in matrices)
        raw.append(large)
        norms.append(small_)
    assert max(raw) > 0.9  # else it would not be at work
    assert max(norms) < 0.7 * 1.001


def sources():
    """The same batches in the same order, in each form that `fit` takes."""
    yield {"x": POINTS, "batch_size": 32}
    yield {"x": Batches()}
    yield {"x": iter([(POINTS[i : i + 32],) for i in (0, 32, 64)] * 2), "steps_per_epoch": 3}
    yield {"x": tf.data.Dataset.from_tensor_slices((POINTS, np.zeros(96), np.ones(96))).batch(32)}


def test_fit_takes_what_keras_takes():
    losses = []
    for source in sources():
        model = small.flow((2,), **TINY, ema_momentum=0.9)
        model.compile(keras.optimizers.Adam(0.05), run_eagerly=True)
        losses.append(model.fit(**source, epochs=2, shuffle=False, verbose=0).history["loss"])
        assert int(model.optimizer.iterations) == 6  # the batches that it adapts to are not lost
    assert losses[0][-1] < losses[0][0]
    for loss in losses[1:]:
        np.testing.assert_allclose(loss, losses[0], rtol=1e-5)


def channels(x):
    """The squeezed pixels of preprocessed images, by formula."""
    p = 1e-6 + (1 - 2e-6) * x / small.LEVELS
    y = np.log(p / (1 - p))
    return np.concatenate([y[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)


def layers(model):
    """All layers of a flow in the order of evaluation."""
    preprocessing, scales = model.flow.layers
    return [preprocessing, *(layer for scale in scales.scales for layer in scale.layers)]


def state(model):
    norms = [layer for layer in layers(model) if isinstance(layer, ActNorm)]
    return small.values(v for norm in norms for v in norm.weights)


def test_fit_adapts_actnorm_to_many_rows_and_once():
    model = small.flow()
    first = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            first.append(state(model))

    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    assert not model.initialized
    model.fit(X, batch_size=48, shuffle=False, verbose=0, callbacks=[Look()])
    y = channels(X.astype("float64"))
    log_scale, bias = first[0][:2]
    np.testing.assert_allclose(bias, -y.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(log_scale, -np.log(y.std((0, 1, 2))), atol=1e-4)
    # The next one standardises what reaches it: the first block's output, squeezed.
    z = tf.constant(X)
    for layer in layers(model):
        z = layer.forward(z)
        if isinstance(layer, ActNorm):
            np.testing.assert_allclose(tf.reduce_mean(z, (0, 1, 2)), 0, atol=1e-3)
            np.testing.assert_allclose(tf.math.reduce_std(z, (0, 1, 2)), 1, atol=1e-3)
    assert model.initialized
    model.fit(0.5 * X, batch_size=48, verbose=0)
    small.assert_same(state(model), first[0])


def test_fit_takes_the_histogram_where_no_actnorm_asks_for_data():
    model = small.flow(preprocessing="marginal", actnorm=False)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    assert not model.initialized
    model.fit(X, batch_size=48, shuffle=False, verbose=0)
    counts = np.bincount(X.astype(int).ravel(), minlength=small.LEVELS)
    found = np.exp(model.flow.layers[0].logits.numpy())
    np.testing.assert_allclose(found, counts / counts.sum(), atol=0.01)
    assert model.initialized


def test_every_step_has_new_noise():
    model = small.flow(coeff=0.8)
    small.train(model, X[:32], 0)
    model.optimizer.learning_rate = 0.0
    logs = []
    for _ in range(2):
        model.reset_metrics()
        logs.append(float(model.train_step(X[:32])["loss"]))
    assert logs[0] != logs[1]


@pytest.mark.parametrize(
    "optimizer",
    # Both count their steps by the same counter.
    [pytest.param({}, marks=pytest.mark.soak), {"gradient_accumulation_steps": 2}],
)
def test_every_step_has_new_noise_in_half_precision(optimizer):
    x = tf.constant(small.points(8, 2))
    model = small.flow((2,), **TINY, dtype="mixed_float16")
    model.compile(keras.optimizers.SGD(0.0, **optimizer))
    model.adapt(x)
    step, losses = tf.function(model.train_step, autograph=False), set()
    for _ in range(4):
        model.reset_metrics()
        losses.add(float(step(x)["loss"]))
    assert len(losses) == 4
    assert int(model.steps_taken) == 4


def test_a_loss_scale_grows_and_shrinks_and_changes_no_step():
    """Against plain descent: a scale that overflows costs a step, one that does not costs nothing.

    The largest finite power of two, times a gradient above 2, is infinite.
    """
    ends = {}
    for scale in (None, 2.0**127, 2.0**10):
        model = small.classifier(blocks=(1,), hidden=4, kernel_sizes=(3, 1), actnorm=False)
        optimizer = keras.optimizers.SGD(0.01)
        if scale is not None:
            optimizer = keras.optimizers.LossScaleOptimizer(
                optimizer, initial_scale=scale, dynamic_growth_steps=2
            )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss=loss)
        step = tf.function(model.train_step, autograph=False)
        data = tf.constant(1e3 * X[:8]), tf.constant(np.arange(8) % 3)
        seen = []
        for _ in range(3):
            step(data)
            seen.append(float(optimizer.dynamic_scale) if scale else None)
        ends[scale] = small.values(model.trainable_variables), seen, model.step_counters.numpy()
    assert ends[2.0**10][1:][0] == [2.0**10, 2.0**11, 2.0**11]
    for plain, scaled in zip(ends[None][0], ends[2.0**10][0], strict=True):
        np.testing.assert_allclose(scaled, plain, rtol=1e-4, atol=1e-6)
    _, seen, counts = ends[2.0**127]
    assert counts[0] > 0
    assert seen[0] == 2.0**126


@pytest.mark.quick
def test_training_is_reproducible():
    tiny = {"blocks": (1,), "hidden": 4, "kernel_sizes": (3, 1)}
    weights = [
        small.values(small.train(small.flow(seed=seed, **tiny), X[:8], 2).trainable_variables)
        for seed in (5, 5, 6)
    ]
    small.assert_same(weights[0], weights[1])
    assert any(np.any(a != b) for a, b in zip(weights[0], weights[2], strict=True))


def test_a_scaled_loss_gives_the_same_step():
    models = [small.flow((2,), levels=None, blocks=(1,)) for _ in range(2)]
    for model, factor in zip(models, (None, 1024.0), strict=True):
        model.compile(keras.optimizers.SGD(0.1, loss_scale_factor=factor), run_eagerly=True)
        small.train(model, small.points(16, 2), 1)
    for plain, scaled in zip(*(small.values(m.trainable_variables) for m in models), strict=True):
        np.testing.assert_allclose(scaled, plain, rtol=1e-4, atol=1e-6)


# --- mixed precision ---


@pytest.fixture(scope="module")
def mixed():
    model = small.flow(dtype="mixed_bfloat16", coeff=0.8, ema_momentum=0.9)
    return small.train(model, X[:32], 3)


def test_mixed_precision_trains_in_bfloat16_with_state_in_float32(mixed):
    assert {v.dtype for v in mixed.trainable_variables} == {"float32"}
    x = tf.constant(X[:4])
    low, full = mixed.flow.forward(x, training=True), mixed.flow.forward(x)
    assert low.dtype == full.dtype == tf.float32
    error = np.abs(low - full).max()
    assert 1e-4 < error < 0.1  # branches were rounded, the identity was not


def test_mixed_precision_trains_about_as_full_precision_does(mixed):
    full = small.train(small.flow(coeff=0.8, ema_momentum=0.9), X[:32], 3)
    for a, b in zip(mixed.trainable_variables, full.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, atol=0.1)
    np.testing.assert_allclose(
        mixed.log_prob(X[:32], seed=0), full.log_prob(X[:32], seed=0), rtol=0.05
    )


def test_mixed_precision_evaluates_in_float32(mixed):
    full = small.flow(coeff=0.8, ema_momentum=0.9)
    full.set_weights(mixed.get_weights())
    for ours, its in zip(full.flow.spectral_layers(), mixed.flow.spectral_layers(), strict=True):
        # The bound of a norm covers the cast for compute, so it is a little larger there.
        assert ours.norm_bound() * 0.95 < its.norm_bound() < ours.norm_bound() * (1 + 1e-6)
        ours.kernel.assign(its.normalized_kernel())
    value = mixed.log_prob(X[:4], seed=0)
    assert value.dtype == tf.float32
    np.testing.assert_allclose(value, full.log_prob(X[:4], seed=0), rtol=1e-5)
    np.testing.assert_allclose(mixed.decode(mixed.encode(X[:4])), X[:4], atol=1e-4)


def test_a_model_of_a_distribution_strategy_knows_whether_it_is_initialised():
    with mirrored(None).scope():
        model = small.flow((2,), levels=None, blocks=(1,))
    assert not model.initialized
    model.adapt(small.points(8, 2))
    assert model.initialized


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_fit_traces_a_step_but_once(count, monkeypatch):
    """A graph that makes the optimizer's variables would be traced again without them."""
    traced, step = [], IResNetFlow.train_step

    def counted(self, data):
        traced.append(data)
        return step(self, data)

    monkeypatch.setattr(IResNetFlow, "train_step", counted)
    with mirrored().scope() if count == 2 else contextlib.nullcontext():
        model = small.flow((2,), **TINY)
        model.compile(keras.optimizers.Adam(0.01))
    model.fit(small.points(8, 2), batch_size=4, verbose=0)
    assert len(traced) == count  # on each device
    assert int(tf.convert_to_tensor(model.optimizer.iterations)) == 2
