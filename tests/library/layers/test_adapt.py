"""Weights that come from data: set from many rows, never from bad ones, and then averaged."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library import small_models as small
from tests.library.layers.from_data import X, actnorm, assert_standardises, assert_untouched, flow
from tf_iresnet.layers import (
    ActNorm,
    InvertibleResidual,
    InvertibleSequential,
    MultiScale,
    Squeeze,
    Whitening,
)
from tf_iresnet.layers.rows import enough

RNG = np.random.default_rng(np.random.get_bit_generator())  # begun anew by each test


# --- bad data ---


def test_a_bad_batch_leaves_a_layer_due():
    layer = ActNorm()
    layer.build(X.shape)
    signature = [tf.TensorSpec([None, 3])]
    step = tf.function(lambda x: layer(x, training=True), input_signature=signature)
    for bad in (np.nan * X, X[:0], np.where(X > 4000, np.inf, X)):
        y = step(bad.astype("float32"))
        assert not len(y) or not np.isfinite(y).all()
        assert_untouched(layer)
    step(X)
    assert_standardises(layer, X)


def test_a_bad_first_batch_leaves_a_whole_model_due():
    model = flow(whitening=True)
    with tf.GradientTape():
        tf.function(model.log_prob)(tf.constant(np.nan * X))
    assert not model.initialized
    assert_untouched(actnorm(model))


@pytest.mark.parametrize("how", ["adapt", "fit"])
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (X[:0], "x holds no examples"),
        (np.nan * X, "x holds NaN or infinite"),
        (tf.data.Dataset.from_tensor_slices(X[:0]).batch(4), "x holds no examples"),
        (
            tf.data.Dataset.from_tensors({"image": X, "label": X}),
            "dictionary with the keys .*image.*label",
        ),
    ],
    ids=["empty", "nan", "empty data set", "dictionary"],
)
def test_bad_data_is_refused_and_the_model_untouched(how, x, words):
    model = flow(whitening=True)
    model.compile("adam")
    before = small.values(model.weights)
    with pytest.raises(ValueError, match=words):
        getattr(model, how)(x)
    small.assert_same(small.values(model.weights), before)


def test_fit_refuses_no_examples_where_nothing_is_due_too():
    model = flow(actnorm=False)
    model.compile("adam")
    with pytest.raises(ValueError, match="x holds no examples"):
        model.fit(X[:0])


@pytest.mark.parametrize("bad", [X[:0], np.nan * X])
def test_layers_refuse_bad_data(bad):
    layer = InvertibleSequential([ActNorm(), Whitening()])
    with pytest.raises(ValueError, match=r"no examples|NaN or infinite"):
        layer.adapt(bad)
    for part in layer.layers:
        assert not part.built or assert_untouched(part) is None


def test_a_failure_amid_a_stack_changes_nothing():
    class Burst(InvertibleResidual):
        def forward(self, x, training=False, context=None):
            return x * np.inf

    layer = InvertibleSequential([ActNorm(), Burst(hidden=4), ActNorm(name="last")])
    with pytest.raises(ValueError, match="last takes from these rows are not finite"):
        layer.adapt(X)
    assert_untouched(layer.layers[0])


def test_rows_that_are_not_finite_after_the_first_batch_are_left_out():
    bad = np.concatenate([X, X, X])
    bad[70::4] = np.nan
    model = flow()
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    model.fit(bad, batch_size=64, shuffle=False, verbose=0)
    assert_standardises(actnorm(model), bad[np.isfinite(bad).all(1)])


def test_one_row_sets_the_shift_alone_and_says_so():
    layer = ActNorm()
    with pytest.warns(UserWarning, match="single row.*adapt"):
        layer.adapt(X[:1])
    np.testing.assert_array_equal(layer.bias, -X[0])
    np.testing.assert_array_equal(layer.log_scale, 0.0)
    other = ActNorm()
    with pytest.warns(UserWarning, match="single row.*adapt"):
        other(X[:1], training=True)
    small.assert_same(small.values(other.weights), small.values(layer.weights))
    ActNorm().adapt(np.ones((1, 4, 2)))  # of several pixels there is something to tell


# --- many rows ---


def test_batches_of_one_row_adapt_to_many():
    model = flow(whitening=True)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    data = tf.data.Dataset.from_tensor_slices(X).batch(1)
    model.fit(data, steps_per_epoch=1, shuffle=False, verbose=0)
    (layer,) = (part for part in model._flatten_layers() if isinstance(part, Whitening))
    np.testing.assert_allclose(np.cov(layer(X).numpy().T), np.eye(3), atol=0.02)
    np.testing.assert_allclose(actnorm(model).log_scale, 0.0, atol=1e-3)


def test_groups_of_rows_are_one_batch():
    x = (RNG.standard_normal((1000, 4, 4, 1)) + 3).astype("float32")
    layers = [
        MultiScale(
            [
                InvertibleSequential([Squeeze(), Whitening(), InvertibleResidual(hidden=4)]),
                InvertibleSequential([ActNorm(), Squeeze(), ActNorm()]),
            ],
        )
        for _ in range(2)
    ]
    layers[1].build(x.shape)
    keras.utils.set_random_seed(0)
    layers[0].build(x.shape)
    layers[1].set_weights(layers[0].get_weights())
    layers[0].adapt(x, batch_size=7)
    layers[1](x, training=True)
    for a, b in zip(layers[0].weights, layers[1].weights, strict=True):
        if a.name not in "uv":
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4, err_msg=a.path)


def test_large_arrays_are_read_at_even_distances():
    assert enough((3,)) == 8192
    x = np.arange(100_000, dtype="float32")[:, None]
    layer = ActNorm()
    layer.adapt(x)
    np.testing.assert_allclose(layer.bias, -x.mean(), rtol=1e-3)
    np.testing.assert_allclose(np.exp(layer.log_scale), 1 / x.std(), rtol=1e-3)
    layer.adapt(x, batch_size=10, steps=2)
    assert_standardises(layer, x[np.linspace(0, len(x) - 1, 20).astype(int)])


def test_an_endless_data_set_is_read_as_far_as_needed():
    data = tf.data.Dataset.from_tensors(X).repeat()
    layer = ActNorm()
    layer.adapt(data)
    assert_standardises(layer, X)
    layer.adapt(data.map(lambda x: 2 * x), steps=1)
    assert_standardises(layer, 2 * X)


def test_validation_rows_are_not_looked_at():
    model = flow()
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    model.fit(X, batch_size=64, validation_split=0.25, verbose=0)
    assert_standardises(actnorm(model), X[:48])


def test_scales_far_apart_and_constant_columns():
    columns = RNG.standard_normal((500, 40)) * np.logspace(-12, 12, 40)
    x = np.concatenate([columns, np.full((500, 1), 7.0), np.eye(5)[RNG.integers(0, 5, 500)]], 1)
    x = x.astype("float32")
    for layer in (ActNorm(), Whitening()):
        layer.adapt(x)
        y = layer(x).numpy()
        assert np.isfinite(y).all()
        np.testing.assert_allclose(y[:, :40].std(0), 1.0, rtol=0.01)
        np.testing.assert_array_equal(y[:, 40], 0.0)


# --- the average ---


@pytest.mark.parametrize("how", ["fit", "adapt"])
def test_the_average_starts_from_what_came_from_data(how):
    model = flow(ema_momentum=0.9)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    if how == "fit":
        model.fit(X, batch_size=64, verbose=0)
    else:
        model.adapt(X)
    with model.averaged_weights():
        assert_standardises(actnorm(model), X)


def test_adapt_leaves_the_averages_of_other_weights():
    model = flow(ema_momentum=0.9)
    small.train(model, X, 2, rate=0.1)
    norms = {id(v) for v in actnorm(model).weights}
    pairs = list(model._shadowed())
    before = small.values(shadow for shadow, _ in pairs)
    model.adapt(X * 2)
    for (shadow, variable), old in zip(pairs, before, strict=True):
        np.testing.assert_array_equal(shadow, variable if id(variable) in norms else old)
