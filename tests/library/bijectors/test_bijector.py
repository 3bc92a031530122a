"""The bijector against the layer, dense Jacobians and TFP's own conventions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tests.library.reference import rows_at_once
from tests.library.registry import CASES, inputs, make, representatives
from tf_iresnet.bijectors import KerasBijector
from tf_iresnet.fixed_point import ConvergenceError
from tf_iresnet.layers import (
    ActNorm,
    InjectivePadding,
    InvertibleResidual,
    InvertibleSequential,
    MultiScale,
    Squeeze,
)
from tf_iresnet.log_det import Exact, PowerSeries, RussianRoulette

every = pytest.mark.parametrize("name", CASES)


def density(bijector, dtype="float32"):
    """Standard normal latents, and the density of the data."""
    latents = bijector.forward_event_shape(bijector.layer._event_shape)
    base = tfd.Sample(tfd.Normal(np.zeros([], dtype), 1.0), latents)
    return tfd.TransformedDistribution(base, tfb.Invert(bijector))


@pytest.mark.parametrize("name", representatives(CASES))
def test_values_are_the_layers_and_the_log_det_the_dense_jacobians(name):
    layer, x = make(name, "float64"), inputs(name, 2, "float64")
    bijector = KerasBijector(layer, log_det=Exact())
    y = bijector.forward(x)
    np.testing.assert_array_equal(y, layer(x))
    np.testing.assert_allclose(bijector.inverse(tf.identity(y)), x, rtol=0, atol=1e-13)
    truth = np.linalg.slogdet(rows_at_once(layer.forward, x))[1]
    np.testing.assert_allclose(bijector.forward_log_det_jacobian(x), truth, rtol=0, atol=1e-12)
    for image in (y, tf.identity(y)):
        value = bijector.inverse_log_det_jacobian(image)
        np.testing.assert_allclose(value, -truth, rtol=0, atol=1e-12)


@pytest.mark.quick
@every
def test_shapes_and_ranks_follow_tfps_conventions(name):
    layer, event = make(name), CASES[name].event
    bijector = KerasBijector(layer)
    latent = layer.compute_output_shape((None, *event))[1:]
    assert bijector.forward_min_event_ndims == len(event)
    assert bijector.inverse_min_event_ndims == len(latent)
    assert bijector.dtype == tf.float32
    assert bijector.forward_event_shape(event) == latent
    assert bijector.inverse_event_shape(latent) == event
    assert tuple(bijector.forward_event_shape_tensor(event)) == latent
    assert tuple(bijector.inverse_event_shape_tensor(latent)) == event
    assert bijector.forward_event_shape([7, *event]) == (7, *latent)
    assert tuple(bijector.inverse_event_shape_tensor([7, *latent])) == (7, *event)
    assert bijector.forward_event_shape(tf.TensorShape(None)).rank is None
    assert bijector.experimental_batch_shape().rank == 0


@pytest.mark.parametrize("name", ["dense", "conv 2-D", "multi-scale"])
@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (2, 1, 2)])
def test_leading_axes_are_restored(name, lead):
    layer = make(name)
    bijector = KerasBijector(layer, log_det=Exact())
    flat = inputs(name, int(np.prod(lead)))
    x = flat.reshape(*lead, *CASES[name].event)
    y = bijector.forward(x)
    assert y.shape == (*lead, *layer(flat).shape[1:])
    np.testing.assert_allclose(y.numpy().ravel(), layer(flat).numpy().ravel(), atol=1e-6)
    assert bijector.inverse(y).shape == bijector.inverse(tf.identity(y)).shape == x.shape
    log_det = bijector.forward_log_det_jacobian(x)
    assert log_det.shape == lead
    wanted = layer.forward_and_log_det(flat, log_det=Exact())[1]
    np.testing.assert_allclose(np.ravel(log_det), wanted, atol=1e-5)
    if lead:
        more = bijector.forward_log_det_jacobian(x, event_ndims=len(CASES[name].event) + 1)
        np.testing.assert_allclose(more, np.sum(log_det, -1), atol=1e-5)


@pytest.mark.parametrize(
    "known",
    [pytest.param(1, marks=pytest.mark.soak), 2, None],
    ids=["batch", "two_axes", "no_rank"],
)
def test_unknown_batch_and_unknown_rank_in_a_graph(known):
    bijector = KerasBijector(make("conv 2-D"), log_det=Exact())
    x = inputs("conv 2-D", 3)

    def through(x):
        y = bijector.forward(x)
        return y, bijector.inverse(tf.identity(y)), bijector.forward_log_det_jacobian(x)

    shape = None if known is None else [*[None] * known, *x.shape[1:]]
    traced = tf.function(through, input_signature=[tf.TensorSpec(shape)])
    value = x[None] if known == 2 else x
    for a, b in zip(traced(value), through(value), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_wrong_event_shape_names_the_wanted_one():
    bijector = KerasBijector(make("conv 2-D"))
    with pytest.raises(ValueError, match=r"shape \[\.\.\., 4, 3, 2\]"):
        bijector.forward(np.zeros((2, 3, 4, 2), "float32"))
    with pytest.raises(ValueError, match=r"ends in \(4, 3, 2\)"):
        bijector.forward_event_shape([3, 4, 2])
    with pytest.raises((TypeError, ValueError), match="dtype"):
        bijector.forward(tf.zeros([1, 4, 3, 2], tf.float64))


def test_unbuilt_layers_need_an_event_shape():
    with pytest.raises(ValueError, match="pass event_shape"):
        KerasBijector(InvertibleResidual(hidden=4))
    bijector = KerasBijector(InvertibleResidual(hidden=4), event_shape=[3])
    assert bijector.layer.built
    assert bijector.forward(tf.zeros([2, 3])).shape == (2, 3)
    with pytest.raises(ValueError, match=r"event_shape \(4,\) differs from \(3,\)"):
        KerasBijector(bijector.layer, event_shape=[4])


def test_what_is_no_bijection_is_refused():
    padded = InvertibleSequential([InjectivePadding(2, name="wide"), InvertibleResidual(hidden=4)])
    with pytest.raises(ValueError, match="InjectivePadding wide, which is no bijection"):
        KerasBijector(padded, event_shape=[3])
    with pytest.raises(ValueError, match="InjectivePadding"):
        KerasBijector(InjectivePadding(1), event_shape=[3])
    with pytest.raises(ValueError, match=r"layer must be an InvertibleLayer .*got <Dense"):
        KerasBijector(keras.layers.Dense(2), event_shape=[2])


def test_name_parameters_and_copy():
    layer = make("dense")
    bijector = KerasBijector(layer)
    assert bijector.name == layer.name
    other = bijector.copy(name="other", log_det=Exact())
    assert (other.name, other.layer) == ("other", layer)
    assert set(bijector.parameters) == {"layer", "event_shape", "log_det", "validate_args", "name"}
    assert bijector == bijector
    assert bijector != other


def test_stochastic_ones_say_so():
    assert KerasBijector(make("dense")).is_stochastic
    assert not KerasBijector(make("dense"), log_det=Exact()).is_stochastic
    assert not KerasBijector(make("actnorm")).is_stochastic
    assert not KerasBijector(make("squeeze 2-D"), log_det=PowerSeries(terms=3)).is_stochastic
    assert KerasBijector(make("multi-scale"), log_det=RussianRoulette()).is_stochastic
    exact = InvertibleResidual(hidden=4, log_det=Exact())
    assert not KerasBijector(exact, event_shape=[2]).is_stochastic


@pytest.mark.quick
def test_seeds_through_every_wrapper():
    layer, x = make("dense"), inputs("dense", 3)
    bijector = KerasBijector(layer, log_det=PowerSeries(terms=4), name="block")
    wanted = layer.forward_and_log_det(x, seed=5, log_det=PowerSeries(terms=4))[1]
    np.testing.assert_array_equal(bijector.forward_log_det_jacobian(x, seed=5), wanted)
    chain = tfb.Chain([bijector])
    value = chain.forward_log_det_jacobian(x, event_ndims=1, block={"seed": 5})
    np.testing.assert_array_equal(value, wanted)
    inverted = tfb.Invert(bijector).inverse_log_det_jacobian(x, seed=5)
    np.testing.assert_array_equal(inverted, wanted)
    log_prob = density(bijector).log_prob(x, bijector_kwargs={"seed": 5})
    normal = -np.sum(np.square(layer(x)), 1) / 2 - 5 / 2 * np.log(2 * np.pi)
    np.testing.assert_allclose(log_prob, normal + wanted, rtol=0, atol=1e-5)


DRAWS = {
    "forward": lambda b: b.forward_log_det_jacobian,
    "inverse": lambda b: lambda x: b.inverse_log_det_jacobian(b.forward(x)),
    "density": lambda b: density(b).log_prob,
    "chain": lambda b: lambda x: tfb.Chain([b]).forward_log_det_jacobian(x, event_ndims=1),
}


@pytest.mark.parametrize("of", DRAWS)
def test_without_a_seed_every_call_draws_anew(of):
    draw, x = DRAWS[of](KerasBijector(make("dense"))), tf.constant(inputs("dense", 4))
    assert len({float(tf.reduce_sum(draw(x))) for _ in range(4)}) > 1


@pytest.mark.parametrize("of", representatives(DRAWS, ["forward", "density"]))
def test_without_a_seed_every_call_of_a_graph_draws_anew(of):
    draw, x = DRAWS[of](KerasBijector(make("dense"))), tf.constant(inputs("dense", 4))
    draw = tf.function(draw)
    assert len({float(tf.reduce_sum(draw(x))) for _ in range(4)}) > 1


def test_inverse_that_does_not_converge_raises_or_is_nan():
    layer = InvertibleResidual(hidden=4, kernel_sizes=(1,), coeff=None, input_activation=False)
    bijector = KerasBijector(layer, event_shape=[2])
    layer.branch.parts[0].kernel.assign(3 * np.eye(2))
    y = tf.constant([[1.0, 2.0], [0.0, 0.0]])
    with pytest.raises(ConvergenceError, match="residual"):
        bijector.inverse(y)
    with pytest.raises(ConvergenceError):
        bijector.inverse_log_det_jacobian(y)
    x = tf.function(bijector.inverse)(y).numpy()
    assert np.isnan(x[0]).all()
    np.testing.assert_array_equal(x[1], 0.0)


def test_multi_scale_maps_images_to_vectors():
    flow = MultiScale([Squeeze(), InvertibleSequential([Squeeze(), ActNorm()])])
    bijector = KerasBijector(flow, event_shape=[4, 4, 1])
    data = density(bijector)
    assert data.event_shape == (4, 4, 1)
    assert data.sample([3, 2], seed=1).shape == (3, 2, 4, 4, 1)
    x = np.random.default_rng(0).standard_normal((5, 4, 4, 1)).astype("float32")
    # A permutation of independent standard normals has their density.
    wanted = -np.sum(np.square(x), (1, 2, 3)) / 2 - 8 * np.log(2 * np.pi)
    np.testing.assert_allclose(data.log_prob(x), wanted, rtol=1e-5)
