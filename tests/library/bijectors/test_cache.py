"""Nothing that TFP's caches, or a remembered preimage, hand back is stale."""

import gc

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tests.library.bijectors.bijector_cases import X, change, divergent, exact, wrapped
from tests.library.reference import jacobians
from tests.library.registry import make
from tf_iresnet.bijectors import KerasBijector
from tf_iresnet.log_det import Exact


@wrapped
def test_nothing_is_stale_after_the_weights_change(wrap):
    bijector = exact()
    whole = wrap(bijector)
    if isinstance(whole, tfb.Bijector):
        calls = [whole.forward, whole.inverse, whole.forward_log_det_jacobian]
        calls += [whole.inverse_log_det_jacobian]
        calls += [lambda x: whole.inverse(whole.forward(x)) - whole.forward(x)]
    else:
        calls = [whole.log_prob, lambda _: whole.sample(3, seed=[0, 1])]
    x = tf.constant(X)
    kept = [call(x) for call in calls]  # TFP's cache lives as long as its outputs
    change(bijector)
    for call, old in zip(calls, kept, strict=True):
        new = call(x)
        np.testing.assert_allclose(new, call(tf.identity(x)), atol=1e-6)
        assert np.abs(new - old).max() > 1e-3


def test_an_image_is_inverted_with_the_new_weights():
    for wrap in (lambda b: b, lambda b: tfb.Chain([b]), lambda b: tfb.Chain([tfb.Chain([b])])):
        bijector = exact()
        whole, x = wrap(bijector), tf.constant(X)
        y = whole.forward(x)
        log_det = whole.inverse_log_det_jacobian(y, event_ndims=1)
        change(bijector)
        new = whole.inverse(y)
        np.testing.assert_allclose(bijector.layer.forward(new), y, atol=1e-5)
        assert np.abs(new - x).max() > 1e-2
        truth = -np.linalg.slogdet(jacobians(bijector.layer.forward, new))[1]
        value = whole.inverse_log_det_jacobian(y, event_ndims=1)
        np.testing.assert_allclose(value, truth, atol=1e-5)
        assert np.abs(value - log_det).max() > 1e-3


def test_weights_that_change_inside_a_graph_are_seen():
    bijector = exact()
    kernel = next(bijector.layer.spectral_layers()).kernel

    @tf.function
    def through(x):
        y = bijector.forward(x)
        kernel.assign(0.1 * kernel)
        return y, bijector.inverse(y)

    y, back = through(tf.constant(X))
    np.testing.assert_allclose(bijector.layer.forward(back), y, atol=1e-5)
    assert np.abs(back - X).max() > 1e-2


def test_weights_that_change_between_graphs_are_seen():
    bijector, x = exact(), tf.constant(X)
    kernel = next(bijector.layer.spectral_layers()).kernel
    y = bijector.forward(x)

    @tf.function
    def captured():  # traced once, with another kernel than when it runs
        return bijector.inverse(y)

    @tf.function
    def looped(x):
        y = bijector.forward(x)

        def body(i, _):
            kernel.assign(0.1 * kernel)
            return i + 1, tf.ensure_shape(bijector.inverse(y), x.shape)

        return y, tf.while_loop(lambda i, _: i < 1, body, (0, x))[1]

    np.testing.assert_allclose(captured(), x, atol=1e-5)
    kernel.assign(0.1 * kernel)
    np.testing.assert_allclose(bijector.layer.forward(captured()), y, atol=1e-5)
    kernel.assign(10.0 * kernel)
    image, back = looped(x)
    np.testing.assert_allclose(bijector.layer.forward(back), image, atol=1e-5)
    assert np.abs(back - x).max() > 1e-2


def test_log_prob_does_not_search_for_what_it_has():
    bijector = divergent()
    x = tf.constant([[1.0, -2.0], [0.5, 0.1]])
    wanted = -np.sum(np.square(4 * x), 1) / 2 - np.log(2 * np.pi) + 2 * np.log(4)
    inverted = tfb.Invert(bijector)
    for direction in (inverted, tfb.Chain([tfb.Shift(np.zeros(2, "float32")), inverted])):
        data = tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), direction)
        np.testing.assert_allclose(data.log_prob(x), wanted, rtol=1e-5)
        np.testing.assert_allclose(tf.function(data.log_prob)(x), wanted, rtol=1e-5)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(data.log_prob(x))
        np.testing.assert_allclose(tape.gradient(value, x), -16 * x, rtol=1e-5)


def test_a_preimage_is_not_used_under_another_tape():
    """The inverse depends on the weights; x, computed before the tape, does not."""
    bijector = exact(dtype="float64")
    weights = bijector.trainable_variables
    x = tf.constant(X, tf.float64)
    y = bijector.forward(x)

    def gradient(y, watch=True):
        with tf.GradientTape(watch_accessed_variables=watch) as tape:
            tape.watch([y, *([] if watch else weights)])
            total = tf.reduce_sum(bijector.inverse(y)) + tf.reduce_sum(
                bijector.inverse_log_det_jacobian(y)
            )
        return tape.gradient(total, [y, *weights])

    truth = gradient(tf.identity(y))
    with tf.GradientTape():  # an outer tape recorded y, but the inner ones did not
        recorded = bijector.forward(x)
        with tf.GradientTape() as inner:
            total = tf.reduce_sum(bijector.inverse(recorded))
        unwatched = [inner.gradient(total, weights)]
        nested = gradient(bijector.forward(x))
    with tf.GradientTape(persistent=True):
        recorded = bijector.forward(x)
        with tf.GradientTape() as inner:
            total = tf.reduce_sum(bijector.inverse(recorded))
        unwatched.append(inner.gradient(total, weights))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(bijector.inverse(tf.identity(y)))
    wanted = tape.gradient(total, weights)
    for one in unwatched:
        for a, b in zip(one, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    with tf.GradientTape() as first:
        again = bijector.forward(x)
    del first
    for other in (gradient(y), gradient(y, watch=False), nested, gradient(again)):
        for a, b in zip(other, truth, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_log_det_before_a_tape_and_in_a_loop():
    bijector, x = exact(), tf.constant(X)
    before = bijector.forward_log_det_jacobian(x)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(bijector.forward_log_det_jacobian(x))
    assert all(g is not None for g in tape.gradient(value, bijector.trainable_variables)[:-1])

    @tf.function
    def loop(x):
        y = bijector.forward(x)

        def body(i, total):
            return i + 1, total + bijector.forward_log_det_jacobian(x) + tf.reduce_sum(
                bijector.inverse(y) - x
            )

        total = tf.while_loop(lambda i, _: i < 2, body, (0, tf.zeros(4)))[1]
        return total, bijector.forward_log_det_jacobian(x), bijector.inverse_log_det_jacobian(y)

    total, outside, inverse = loop(x)
    np.testing.assert_allclose(total, 2 * before, atol=1e-4)
    np.testing.assert_allclose(outside, before, atol=1e-5)
    np.testing.assert_allclose(inverse, -before, atol=1e-5)


def test_nothing_gathers_in_tfps_cache_or_in_memory():
    bijector, x = exact(), tf.constant(X)
    chain = tfb.Chain([bijector, tfb.Shift(tf.ones(5))])
    nested = tfb.Invert(tfb.Chain([tfb.Scale(2.0), tfb.Chain([chain])]))
    storage = tfb.Bijector._cache.storage
    kept = []
    for _ in range(4):  # outputs that live keep what TFP stores
        kept += [chain.forward(x), chain.forward_log_det_jacobian(x), nested.inverse(x)]
    assert not [key for key in storage if key.subkey[0] in (bijector, chain, nested)]
    del kept
    sizes = [(chain.forward(x), len(storage))[1] for _ in range(12)]
    assert sizes[-1] <= sizes[2]
    kept = bijector.forward(x)
    assert bijector._latest.of(kept) is x
    del kept
    gc.collect()
    assert bijector._latest._x() is None


def test_the_hash_stays_and_equal_bijectors_are_equal():
    layer = make("dense")
    bijector = KerasBijector(layer, event_shape=[5], log_det=Exact())
    same = KerasBijector(layer, event_shape=(5,), log_det=Exact())
    assert hash(bijector) == hash(bijector) == hash(same)
    assert bijector == same
    assert bijector != KerasBijector(layer, event_shape=[5])
    assert bijector != KerasBijector(make("dense", "float64"), event_shape=[5], log_det=Exact())
    assert {bijector: 1}[same] == 1
    wrapped = [tfb.Chain([tfb.Exp(), tfb.Invert(b)], name="c") for b in (bijector, same)]
    assert hash(wrapped[0]) == hash(wrapped[1])
    assert wrapped[0] == wrapped[1]
    before = hash(bijector)
    x = tf.constant(X)
    y = bijector.forward(x)
    change(bijector)
    assert hash(bijector) == before
    assert np.abs(same.forward(x) - y).max() > 1e-3  # equal, and nothing stale between them
    assert bijector.copy() == bijector


def test_other_bijectors_are_cached_as_ever():
    x = tf.constant(X)
    for bijector in (tfb.Exp(), tfb.Chain([tfb.Shift(1.0), tfb.Softplus()])):
        y = bijector.forward(x)
        assert bijector.inverse(y) is x
        value = bijector.forward_log_det_jacobian(x, event_ndims=0)
        assert bijector.inverse_log_det_jacobian(y, event_ndims=0) is not value
        np.testing.assert_array_equal(bijector.inverse_log_det_jacobian(y, event_ndims=0), -value)
