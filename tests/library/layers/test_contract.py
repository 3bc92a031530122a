"""What every invertible layer promises, checked over the registry."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library.reference import rows_at_once
from tests.library.registry import CASES, KINDS, KNOWN, inputs, make
from tf_iresnet.fixed_point import Picard
from tf_iresnet.layers import InvertibleLayer, InvertibleResidual
from tf_iresnet.log_det import Exact, PowerSeries

# Mathematics is checked for every layer in every run; what the code around it does, which layers
# of a kind share, for one of each. `tests/conftest.py` gives each test its layers.
every = pytest.mark.layers
kinds = pytest.mark.layers(of="kinds")
# To trace a block takes long. A convolution is traced for any batch as a bijector, a recomputed one
# with its control variate, and the scales of a flow where it is exported.
NOT_TRACED = ("conv 2-D", "conv 2-D recomputed", "multi-scale")
graph_kinds = pytest.mark.layers(of="kinds", but=NOT_TRACED)
estimated = pytest.mark.layers(estimated=True)
estimated_kinds = pytest.mark.layers(of="kinds", estimated=True)
LAYERS = (CASES, KINDS)


@functools.cache
def slogdet(name):
    """The log-determinants of the dense Jacobians at two inputs of a layer in float64."""
    x = inputs(name, 2, "float64")
    return np.linalg.slogdet(rows_at_once(make(name, "float64").forward, x))[1]


@kinds
@pytest.mark.parametrize(
    ("dtype", "atol"),
    # In float64 it follows from the other direction, which is checked for every layer.
    [("float32", 1e-5), pytest.param("float64", 1e-13, marks=pytest.mark.soak)],
)
def test_inverse_undoes_forward(name, dtype, atol):
    layer, x = make(name, dtype), inputs(name, 3, dtype)
    y = layer(x).numpy()
    assert y.dtype == dtype
    again, result = layer.inverse(y), layer.inverse(y, return_result=True)
    np.testing.assert_allclose(again, x, rtol=0, atol=atol)
    np.testing.assert_array_equal(result.x, again)
    assert result.converged.numpy().all()
    assert result.steps.shape == result.residual.shape == (3,)


@every
def test_forward_undoes_inverse(name):
    layer = make(name, "float64")
    y = np.random.default_rng(5).standard_normal(layer(inputs(name)).shape)
    x = layer.inverse(y)
    assert x.dtype == "float64"
    np.testing.assert_allclose(layer(x), y, rtol=0, atol=1e-13)


@pytest.mark.quick
@every
def test_exact_log_det_is_that_of_the_dense_jacobian(name):
    layer, x = make(name, "float64"), inputs(name, 2, "float64")
    y, value = layer.forward_and_log_det(x, log_det=Exact())
    np.testing.assert_allclose(y, layer(x), rtol=0, atol=1e-14)
    truth = slogdet(name)
    np.testing.assert_allclose(value, truth, rtol=0, atol=1e-12)
    if not name.startswith("squeeze"):
        assert np.abs(truth).max() > 1e-4  # else a zero would pass


@estimated
def test_long_series_estimates_the_dense_jacobians_log_det(name):
    layer, x = make(name, "float64"), inputs(name, 1, "float64")
    copies = np.repeat(x, 150, 0)  # in training, where equal examples have different noise
    series = PowerSeries(terms=40)
    _, draws = layer.forward_and_log_det(copies, seed=4, log_det=series, training=True)
    error = np.mean(draws) - slogdet(name)[0]  # of the same first input
    assert abs(error) < 4 * np.std(draws) / np.sqrt(len(draws)) + 1e-9
    assert np.std(draws) < 2.0


@kinds
def test_gradients_reach_every_weight(name):
    layer, x = make(name), inputs(name, 4)
    with tf.GradientTape() as tape:
        y, log_det = layer.forward_and_log_det(x, seed=0)
        loss = tf.reduce_mean(tf.reduce_sum(tf.square(y), range(1, y.shape.rank)) / 2 - log_det)
    for variable, gradient in zip(
        layer.trainable_variables, tape.gradient(loss, layer.trainable_variables), strict=True
    ):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path
        assert np.any(gradient), variable.path


@every
def test_exact_log_dets_gradient_is_that_of_the_dense_jacobians(name):
    layer, x = make(name, "float64"), tf.constant(inputs(name, 2, "float64"))
    variables = layer.trainable_variables
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(layer.forward_and_log_det(x, log_det=Exact())[1])
    mine = tape.gradient(total, [x, *variables])
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(tf.linalg.slogdet(rows_at_once(layer.forward, x))[1])
    truth = tape.gradient(total, [x, *variables])
    for a, b in zip(mine, truth, strict=True):
        np.testing.assert_allclose(0 if a is None else a, 0 if b is None else b, atol=1e-10)


@kinds
def test_training_and_inference_agree_on_converged_state(name):
    layer, x = make(name, "float64"), inputs(name, 3, "float64")
    for variable in layer.non_trainable_variables:
        if variable.name == "initialized":
            variable.assign(1.0)
    before = layer(x)
    np.testing.assert_allclose(layer(x, training=True), before, rtol=0, atol=1e-4)
    plain, _ = layer.forward_and_log_det(x, seed=0)
    trained, _ = layer.forward_and_log_det(x, seed=0, training=True)
    np.testing.assert_array_equal(trained, plain)


@kinds
def test_inference_changes_no_state(name):
    layer, x = make(name), inputs(name)
    before = [v.numpy() for v in layer.variables]
    layer.inverse(layer(x))
    layer.forward_and_log_det(x)
    for variable, value in zip(layer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)


@kinds
def test_keras_file_and_weights_file_restore_the_layer(name, tmp_path):
    layer, x = make(name), inputs(name)
    entry = keras.Input(KNOWN[name].event)
    model = keras.Model(entry, layer(entry))
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(restored(x), model(x))
    (inner,) = (part for part in restored.layers if isinstance(part, InvertibleLayer))
    assert json.dumps(inner.get_config()) == json.dumps(layer.get_config())
    model.save_weights(tmp_path / "only.weights.h5")
    entry = keras.Input(KNOWN[name].event)
    fresh = type(layer).from_config(layer.get_config())
    other = keras.Model(entry, fresh(entry))
    other.load_weights(tmp_path / "only.weights.h5")
    np.testing.assert_array_equal(other(x), layer(x))
    for mine, theirs in ((inner, layer), (fresh, layer)):
        a, b = (part.forward_and_log_det(x, seed=3)[1] for part in (mine, theirs))
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(mine.inverse(layer(x)), layer.inverse(layer(x)))


def test_estimator_and_solver_are_saved_with_a_block(tmp_path):
    options = {"log_det": Exact(rows=3), "solver": Picard(max_steps=77, atol=1e-3)}
    block = InvertibleResidual(hidden=3, **options)
    model = keras.Sequential([keras.Input((2,)), block])
    model.save(tmp_path / "model.keras")
    (restored,) = keras.saving.load_model(tmp_path / "model.keras").layers
    for other in (restored, InvertibleResidual.from_config(block.get_config())):
        assert other.log_det == Exact(rows=3)
        assert isinstance(other.solver, Picard)
        assert other.solver.get_config() == {"max_steps": 77, "atol": 1e-3, "rtol": None}


@every
def test_tensorflows_checkpoint_restores_the_layer(name, tmp_path):
    layer, x = make(name), inputs(name)
    wanted = layer(x)
    path = tf.train.Checkpoint(layer=layer).save(tmp_path / "checkpoint")
    for variable in layer.variables:
        variable.assign(tf.zeros_like(variable))
    tf.train.Checkpoint(layer=layer).restore(path).assert_consumed()
    np.testing.assert_array_equal(layer(x), wanted)


@kinds
@pytest.mark.parametrize("batch", [1, 5])
def test_any_batch_size(name, batch):
    layer, x = make(name), inputs(name, 5)
    y, log_det = layer.forward_and_log_det(x[:batch], seed=0)
    assert log_det.shape == (batch,)
    assert layer.inverse(y).shape == x[:batch].shape
    np.testing.assert_allclose(y, layer(x)[:batch], rtol=0, atol=1e-6)


@kinds
def test_empty_batch(name):
    layer, x = make(name), inputs(name, 0)
    y, log_det = layer.forward_and_log_det(x, seed=0)
    assert y.shape == layer.compute_output_shape(x.shape)
    assert log_det.shape == (0,)
    assert layer.inverse(y).shape == x.shape
    assert layer(x).shape == y.shape


@graph_kinds
def test_unknown_batch_under_tf_function(name):
    layer = make(name)

    @tf.function(input_signature=[tf.TensorSpec([None, *KNOWN[name].event])])
    def through(x):
        y, log_det = layer.forward_and_log_det(x, seed=0)
        assert y.shape[1:] == layer.compute_output_shape((None, *KNOWN[name].event))[1:]
        return y, log_det, layer.inverse(y)

    for batch in (2, 3):
        x = inputs(name, batch)
        y, log_det, back = through(x)
        wanted = layer.forward_and_log_det(x, seed=0)
        np.testing.assert_allclose(y, wanted[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(log_det, wanted[1], rtol=0, atol=1e-5)
        np.testing.assert_allclose(back, x, rtol=0, atol=1e-5)


@kinds
def test_mixed_precision_keeps_state_and_inverse_in_float32(name, monkeypatch):
    layer, x = make(name, "mixed_bfloat16"), inputs(name)
    assert {v.dtype for v in layer.variables} - {"int32"} <= {"float32"}
    y, log_det = layer.forward_and_log_det(x, seed=0)
    assert y.dtype == log_det.dtype == tf.float32
    full = make(name)
    for part, same in zip(layer.spectral_layers(), full.spectral_layers(), strict=True):
        if part.normalization == "bound":
            # It covers the kernel as cast for training too: every tap's rounding, 2^-8 of it.
            ratio = part.normalized_kernel() / same.normalized_kernel()
            np.testing.assert_allclose(ratio, ratio[(0,) * ratio.shape.rank], rtol=1e-5)
            assert 1 - 2**-5 <= float(tf.reduce_max(ratio)) <= 1 + 1e-6
            monkeypatch.setattr(same, "normalized_kernel", part.normalized_kernel)
    np.testing.assert_array_equal(layer.forward(tf.constant(x)), full.forward(tf.constant(x)))
    np.testing.assert_allclose(layer.inverse(y), x, rtol=0, atol=1e-5)
    rough, rough_log_det = layer.forward_and_log_det(x, seed=0, training=True)
    assert rough.dtype == rough_log_det.dtype == tf.float32
    np.testing.assert_allclose(rough, y, rtol=0, atol=0.1)
    assert layer(x, training=True).dtype == tf.float32


@estimated_kinds
def test_a_seed_fixes_the_value_however_the_batch_is_cut(name):
    layer, x = make(name), inputs(name, 5)
    estimator = PowerSeries(terms=3)
    whole = layer.forward_and_log_det(x, seed=[1, 2, 7], log_det=estimator)[1]
    again = layer.forward_and_log_det(x, seed=[1, 2, 7], log_det=estimator)[1]
    np.testing.assert_array_equal(whole, again)
    parts = [
        layer.forward_and_log_det(x[a:b], seed=[1, 2, 7 + a], log_det=estimator)[1]
        for a, b in ((0, 2), (2, 5))
    ]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-5)
    if name != "dense one layer":
        other = layer.forward_and_log_det(x, seed=[1, 3, 7], log_det=estimator)[1]
        assert np.abs(other - whole).max() > 1e-4
        unseeded = {float(sum(layer.forward_and_log_det(x)[1])) for _ in range(4)}
        assert len(unseeded) > 1


@kinds
def test_inverse_before_forward(name):
    case = KNOWN[name]
    built = case.make("float32")
    shape = built.compute_output_shape((2, *case.event))
    layer = case.make("float32")
    y = np.random.default_rng(0).standard_normal(shape).astype("float32")
    if name.startswith("multi-scale"):  # a flat vector does not tell the image's shape
        with pytest.raises(ValueError, match="build it first"):
            layer.inverse(y)
        layer.build((None, *case.event))
    x = layer.inverse(y)
    assert x.shape == (2, *case.event)
    np.testing.assert_allclose(layer(x), y, rtol=0, atol=1e-5)


@every
def test_shape_methods_tell_the_truth(name):
    layer, x = make(name), inputs(name, 2)
    y = layer(x)
    assert layer.compute_output_shape(x.shape) == tuple(y.shape)
    assert layer.compute_input_shape(tuple(y.shape)) == x.shape
    assert layer.compute_output_shape((None, *x.shape[1:])) == (None, *y.shape[1:])


@kinds
def test_array_likes_are_accepted(name):
    layer, x = make(name), inputs(name, 2)
    wanted = layer(x)
    for other in (x.tolist(), tf.constant(x), x.astype("float64")):
        np.testing.assert_array_equal(layer(tf.convert_to_tensor(other)), wanted)
        y = layer.forward_and_log_det(other, seed=0)[0]
        np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-6)
    back = layer.inverse(wanted)
    for other in (wanted.numpy().tolist(), wanted.numpy().astype("float64")):
        np.testing.assert_array_equal(layer.inverse(other), back)


@every
def test_wrong_input_shape_is_refused(name):
    layer, x = make(name), inputs(name, 2)
    with pytest.raises(ValueError, match=r"built for inputs of shape \[batch, .*got"):
        layer.forward_and_log_det(np.concatenate([x, x], -1))
    with pytest.raises(ValueError, match=r"built for inputs of shape|expected"):
        layer(x[0])
