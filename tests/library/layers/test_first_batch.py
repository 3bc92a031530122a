"""The first batch of any training sets what comes from data, and leaves what someone has set."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tests.library import small_models as small
from tests.library.layers.from_data import (
    X,
    actnorm,
    assert_standardises,
    assert_untouched,
    flow,
    stack,
)
from tf_iresnet.bijectors import KerasBijector
from tf_iresnet.layers import ActNorm, InvertibleResidual, InvertibleSequential, Whitening
from tf_iresnet.layers.gaussianization import MarginalGaussianization

RNG = np.random.default_rng(np.random.get_bit_generator())  # begun anew by each test


# --- every way of training ---


def by_train_on_batch():
    model = flow(ema_momentum=0.9)
    model.compile(keras.optimizers.SGD(0.0))
    model.train_on_batch(X)
    with model.averaged_weights():  # the average starts from what came from data
        assert_standardises(actnorm(model), X)
    return model


def by_a_tape_over_call():
    model = small.classifier((2, 2, 3), blocks=(1,), padding=0)
    images = tf.constant(X.reshape(-1, 1, 1, 3) + np.zeros((1, 2, 2, 1), "float32"))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images, training=True))
    assert None not in tape.gradient(loss, [w.value for w in model.trainable_weights])
    return model


def by_a_tape_over_log_prob():
    model = flow()

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model.log_prob(x))
        return loss, tape.gradient(loss, [w.value for w in model.trainable_weights])

    loss, slopes = gradients(tf.constant(X))
    assert np.isfinite(loss)
    assert float(loss) > -100  # the loss of the first step is that of the adapted model
    assert all(np.isfinite(slope).all() for slope in slopes)
    return model


def by_forward_and_log_det():
    layer = stack()
    tf.function(lambda x: layer.forward_and_log_det(x, training=True))(tf.constant(X))
    return layer


def by_an_outer_model():
    class Outer(keras.Model):
        def __init__(self):
            super().__init__()
            self.shift = keras.layers.Dense(3, kernel_initializer="identity")
            self.prior = flow()

        def call(self, x):
            z = self.shift(x)
            self.add_loss(-tf.reduce_mean(self.prior.log_prob(z)))
            return z

    outer = Outer()
    outer.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    outer.fit(X, X, batch_size=len(X), verbose=0)
    return outer.prior


def by_a_functional_model():
    entry = keras.Input((3,))
    layers = [ActNorm(), InvertibleResidual(hidden=4)]
    model = keras.Model(entry, layers[1](layers[0](entry)))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(X, X, batch_size=len(X), verbose=0)
    return model


def distribution(layer):
    base = tfd.MultivariateNormalDiag(tf.zeros(3))
    return tfd.TransformedDistribution(base, tfb.Invert(KerasBijector(layer, event_shape=[3])))


def by_a_tape_over_tfp():
    layer = stack()
    density = distribution(layer)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(density.log_prob(x))
        tape.gradient(loss, density.trainable_variables)
        return loss

    assert float(step(tf.constant(X))) < 100
    return layer


def by_minimize():
    layer = stack()
    density = distribution(layer)
    losses = tfp.math.minimize(
        lambda: -tf.reduce_mean(density.log_prob(tf.constant(X))),
        num_steps=1,
        optimizer=keras.optimizers.SGD(0.0),
        trainable_variables=density.trainable_variables,
    )
    assert float(losses[0]) < 100
    return layer


def by_vi():
    layer = stack()
    tfp.vi.fit_surrogate_posterior(
        lambda z: tf.zeros(tf.shape(z)[:1]),
        Surrogate(layer),
        optimizer=keras.optimizers.SGD(0.0),
        num_steps=1,
        sample_size=64,
        trainable_variables=[v.value for v in layer.trainable_variables],
    )
    return layer


class Surrogate(tfd.Distribution):
    """Draws the layer's values at X: a surrogate whose samples are known."""

    def __init__(self, layer):
        self._bijector = KerasBijector(layer, event_shape=[3])
        super().__init__(
            tf.float32, tfd.FULLY_REPARAMETERIZED, validate_args=False, allow_nan_stats=True
        )

    def _sample_n(self, n, seed=None):
        return self._bijector.forward(tf.constant(X))

    def _log_prob(self, z):
        return -tf.reduce_sum(tf.square(z), axis=-1)

    def _event_shape(self):
        return tf.TensorShape([3])

    def _batch_shape(self):
        return tf.TensorShape([])


WAYS = [
    by_train_on_batch,
    by_a_tape_over_call,
    by_a_tape_over_log_prob,
    by_forward_and_log_det,
    by_an_outer_model,
    by_a_functional_model,
    by_a_tape_over_tfp,
    by_minimize,
    by_vi,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_first_batch_of_any_training_adapts(way):
    assert_standardises(actnorm(way()), X)


def test_whitening_without_trained_weights_adapts_where_its_flow_is_trained():
    model = flow(whitening=True, actnorm=False)
    with tf.GradientTape():
        model.log_prob(X)
    (layer,) = (part for part in model._flatten_layers() if isinstance(part, Whitening))
    np.testing.assert_allclose(layer.mean, X.mean(0), rtol=1e-5)
    np.testing.assert_allclose(np.cov(layer(X).numpy().T), np.eye(3), atol=0.02)


def test_the_marginal_map_adapts_in_a_tape_too():
    layer = MarginalGaussianization(4)
    x = RNG.uniform(0, 2, (50, 3)).astype("float32")
    layer.build(x.shape)
    with tf.GradientTape():
        layer.forward_and_log_det(x)
    # A hundredth is spread over four levels, of which two never came.
    np.testing.assert_allclose(np.exp(layer.logits)[2:], 0.0025 / 1.01, rtol=1e-3)


def test_evaluation_changes_nothing():
    model = flow()
    model.compile()
    model.log_prob(X)
    model.encode(X)
    model.decode(np.zeros((2, 3), "float32"))
    model.sample(2)
    model(X)
    model.evaluate(X, batch_size=64, verbose=0)
    x = tf.constant(X)
    with tf.GradientTape(watch_accessed_variables=False) as tape:  # as Markov chains do
        tape.watch(x)
        value = model.log_prob(x)
    assert tape.gradient(value, x) is not None
    assert_untouched(actnorm(model))
    assert not model.initialized


def test_a_graph_traced_later_holds_nothing_of_it():
    layer = ActNorm()
    layer.build(X.shape)

    def operations():
        function = tf.function(lambda x: layer.forward_and_log_det(layer(x, training=True)))
        graph = function.get_concrete_function(tf.TensorSpec([None, 3])).graph
        return [op.type for op in graph.get_operations() if op.type in ("If", "AssignVariableOp")]

    assert operations() == ["If"]
    layer.adapt(X)
    assert operations() == []


# --- left alone ---


def frozen_layer():
    model = flow()
    actnorm(model).trainable = False
    return model


def frozen_parent():
    model = flow()
    model.flow.trainable = False
    return model


def made_frozen():
    return flow(trainable=False)


def set_by_hand():
    model = flow()
    actnorm(model).bias.assign([1.0, 2.0, 3.0])
    return model


def weights_of_another():
    other = flow()
    actnorm(other).log_scale.assign([1.0, 2.0, 3.0])
    model = flow()
    model.set_weights(other.get_weights())
    return model


@pytest.mark.parametrize("make", [frozen_layer, frozen_parent, set_by_hand, weights_of_another])
def test_training_leaves_alone_what_is_frozen_or_set(make):
    model = make()
    layer = actnorm(model)
    before = small.values(layer.weights)
    assert model.initialized
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    model.fit(X, batch_size=64, verbose=0)
    model.train_on_batch(X)
    with tf.GradientTape():
        model.log_prob(X)
    layer(X, training=True)
    tf.function(layer)(tf.constant(X), training=True)
    small.assert_same(small.values(layer.weights), before)


def test_a_sequence_made_frozen_is_frozen_in_its_parts():
    layer = InvertibleSequential([ActNorm(), InvertibleResidual(hidden=4)], trainable=False)
    layer(X, training=True)
    assert_untouched(layer.layers[0])


def test_adapt_sets_anew_but_what_is_frozen():
    layers = InvertibleSequential([ActNorm(), ActNorm()])
    layers.build((None, 3))
    layers.layers[0].trainable = False
    layers.layers[1].bias.assign([1.0, 2.0, 3.0])
    layers.adapt(X)
    assert_untouched(layers.layers[0])
    assert_standardises(layers.layers[1], X)
    layers.adapt(2 * X)
    assert_standardises(layers.layers[1], 2 * X)


def test_adapt_refuses_what_is_frozen_altogether():
    assert made_frozen().initialized
    with pytest.raises(ValueError, match=r"is frozen.*trainable=True"):
        made_frozen().adapt(X)
    with pytest.raises(ValueError, match=r"is frozen.*trainable=True"):
        ActNorm(trainable=False).adapt(X)


def test_the_head_of_a_frozen_flow_still_trains():
    model = small.classifier((2, 2, 3), blocks=(1,), padding=0)
    model.flow.trainable = False
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    before = small.values(model.head.trainable_variables)
    model.fit(RNG.standard_normal((8, 2, 2, 3)), np.zeros((8, 3)), verbose=0)
    assert_untouched(actnorm(model))
    assert np.any(model.head.trainable_variables[-1] != before[-1])
