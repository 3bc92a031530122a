"""Contexts: a conditional layer at c is the unconditional one whose biases c has shifted."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tests.library.reference import difference, jacobians
from tests.library.registry import randomize
from tf_iresnet import certify
from tf_iresnet.bijectors import KerasBijector
from tf_iresnet.layers import (
    ActNorm,
    DenseNetBranch,
    InvertibleResidual,
    InvertibleSequential,
    MultiScale,
    SpectralConv2D,
    Squeeze,
)
from tf_iresnet.log_det import Exact, PowerSeries, RussianRoulette

EVENT, SIZE, BATCH = (2, 2, 2), 3, 3
X = np.random.default_rng(0).standard_normal((BATCH, *EVENT))
C = np.random.default_rng(1).standard_normal((BATCH, SIZE))


@keras.saving.register_keras_serializable("tf_iresnet_tests")
class ShiftedSine(keras.layers.Layer):
    """g(x; c) = sin(x + c V) / 2: a user's own conditional branch."""

    context_size = SIZE

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(SIZE, input_shape[-1]))
        self.built = True

    def call(self, x, context):
        return 0.5 * tf.sin(tf.roll(x, 1, -1) + tf.matmul(context, self.kernel)[:, None, None])

    def compute_output_shape(self, input_shape):
        return input_shape

    def lipschitz_bound(self):
        return 0.5


BLOCKS = {
    "residual": lambda d, c: InvertibleResidual(hidden=4, kernel_sizes=(3, 1), **d, **c),
    "recomputed": lambda d, c: InvertibleResidual(
        hidden=4, kernel_sizes=(3, 1), recompute=True, **d, **c
    ),
    "densenet": lambda d, c: InvertibleResidual(DenseNetBranch(4, 1, **d, **c), **d),
}


def made(make, dtype="float64", context_size=SIZE, seed=0):
    keras.utils.set_random_seed(seed)
    layer = make({"dtype": dtype}, {} if context_size is None else {"context_size": context_size})
    layer.build((None, *EVENT))
    randomize(layer, seed)
    return layer


def shifted(make, layer, row):
    """The unconditional twin at one context, its biases set by hand."""
    twin = made(make, context_size=None)
    for mine, theirs in zip(layer.spectral_layers(), twin.spectral_layers(), strict=True):
        bias = mine.bias.numpy() + row @ mine.context_kernel.numpy()
        for variable, value in ((theirs.kernel, mine.kernel), (theirs.bias, bias)):
            variable.assign(value)
        for mine_vector, vector in zip(mine.spectral_state, theirs.spectral_state, strict=True):
            vector.assign(mine_vector)
    others = [
        [v for v in block.trainable_variables if v.name in ("beta", "raw_weights")]
        for block in (layer, twin)
    ]
    for variable, theirs in zip(*others, strict=True):
        theirs.assign(variable)
    return twin


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
def test_each_example_is_mapped_by_its_own_unconditional_twin(make):
    layer = made(make)
    estimators = [Exact(rows=5), PowerSeries(terms=4), RussianRoulette()]
    y = layer(X, context=C)
    values = [layer.forward_and_log_det(X, [1, 2, 5], e, context=C)[1] for e in estimators]
    x = layer.inverse(y, context=C)
    for index, row in enumerate(C):
        twin, one = shifted(make, layer, row), slice(index, index + 1)
        np.testing.assert_allclose(y[one], twin(X[one]), atol=1e-13)
        np.testing.assert_allclose(x[one], twin.inverse(y[one]), atol=1e-12)
        for estimator, value in zip(estimators, values, strict=True):
            _, truth = twin.forward_and_log_det(X[one], [1, 2, 5 + index], estimator)
            np.testing.assert_allclose(value[one], truth, atol=1e-12)
    np.testing.assert_allclose(x, X, atol=1e-13)
    assert np.abs(layer(X, context=C[::-1]) - y).max() > 0.01


BLOCKS_AND_OWN = {**BLOCKS, "own": lambda d, c: InvertibleResidual(ShiftedSine(**d), **d)}


@pytest.mark.parametrize("make", BLOCKS_AND_OWN.values(), ids=BLOCKS_AND_OWN)
def test_gradients_in_the_context(make):
    """Of the map, of the log-determinant by copies of the batch, and of the inverse."""
    layer, weights = made(make), np.arange(1.0, BATCH + 1)

    def forward(c):
        y, value = layer.forward_and_log_det(X, log_det=Exact(rows=3), context=c)
        return [tf.reduce_sum(tf.sin(y)) + tf.reduce_sum(weights * value)]

    def inverse(c):
        return [tf.reduce_sum(tf.sin(layer.inverse(X, context=c)))]

    rng = np.random.default_rng(2)
    for function in (forward, inverse):
        c = tf.constant(C)
        with tf.GradientTape() as tape:
            tape.watch(c)
            total = function(c)[0]
        gradient = tape.gradient(total, c).numpy()
        for row in range(BATCH):
            direction = np.zeros_like(C)
            direction[row] = rng.standard_normal(SIZE)
            along = lambda t, d=direction, f=function: f(C + float(t) * d)  # noqa: E731
            truth = difference(along, 0.0, 1e-5)[0]
            assert abs(truth) > 1e-3
            np.testing.assert_allclose(np.sum(gradient * direction), truth, rtol=1e-6)


def test_the_exact_log_det_of_an_own_conditional_branch():
    layer = made(BLOCKS_AND_OWN["own"])
    _, value = layer.forward_and_log_det(X, log_det=Exact(rows=3), context=C)
    c = tf.constant(C)
    truth = np.linalg.slogdet(jacobians(lambda x: layer.forward(x, context=c), X))[1]
    np.testing.assert_allclose(value, truth, atol=1e-12)


@pytest.mark.parametrize("name", ["residual", "densenet"])
def test_no_context_moves_the_branch_above_its_bound(name):
    layer = made(BLOCKS[name])
    bound, norms = layer.lipschitz_bound(), []
    for spread in (0.0, 1.0, 30.0):
        c = spread * C
        jacobian = jacobians(lambda x, c=c: layer.forward(x, context=c) - x, X)
        norms.append(np.linalg.svd(jacobian, compute_uv=False)[:, 0])
        assert certify(layer).contraction == bound
    assert 0.05 < np.max(norms) <= bound * (1 + 1e-12)
    assert np.abs(np.diff(norms, axis=0)).max() > 1e-3  # the context does act


def test_compositions_hand_the_context_to_those_who_take_one():
    options = {"hidden": 4, "kernel_sizes": (1, 1), "dtype": "float64"}
    conditional = InvertibleResidual(context_size=SIZE, **options)
    plain = InvertibleResidual(**options)
    layers = [ActNorm(dtype="float64"), conditional, plain, Squeeze(dtype="float64")]
    inner = InvertibleSequential(layers, dtype="float64")
    flow = MultiScale([inner], dtype="float64")
    flow.adapt(X, context=C)
    randomize(flow)
    z, value = flow.forward_and_log_det(X, log_det=Exact(), context=C)
    h, total = X, 0.0
    for layer in layers:
        given = {"context": C} if layer is conditional else {}
        h, part = layer.forward_and_log_det(h, log_det=Exact(), **given)
        total += part
    np.testing.assert_allclose(z, tf.reshape(h, [BATCH, -1]), atol=1e-14)
    np.testing.assert_allclose(value, total, atol=1e-12)
    np.testing.assert_allclose(flow.inverse(z, context=C), X, atol=1e-12)
    np.testing.assert_array_equal(flow(X, training=False, context=C), z)
    assert flow.context_size == inner.context_size == SIZE
    assert plain.context_size is None
    with pytest.raises(ValueError, match=r"contexts of different sizes \[2, 3\]"):
        InvertibleSequential([conditional, InvertibleResidual(context_size=2)])


def test_a_spectral_layer_alone():
    layer = SpectralConv2D(4, 3, use_bias=False, context_size=SIZE, activation="relu")
    x, c = X.astype("float32"), C.astype("float32")
    assert np.array_equal(layer(x, context=c), layer(x, context=0 * c))  # starts unconditional
    layer.context_kernel.assign(np.random.default_rng(2).standard_normal((SIZE, 4)))
    plain = tf.nn.conv2d(x, layer.normalized_kernel(), 1, "SAME")
    wanted = tf.nn.relu(plain + tf.matmul(c, layer.context_kernel)[:, None, None])
    np.testing.assert_allclose(layer(x, context=c), wanted, atol=1e-5)


# --- bijectors ---


@pytest.fixture
def bijector():
    return KerasBijector(made(BLOCKS["residual"]), log_det=Exact(), name="block")


def test_a_bijector_takes_the_context_as_a_keyword(bijector):
    layer, x = bijector.layer, tf.constant(np.stack([X, X + 1]))  # [2, 3, ...]
    c = tf.constant(C)  # broadcast to both
    y = bijector.forward(x, context=c)
    np.testing.assert_allclose(y[1], layer(X + 1, context=C), atol=1e-14)
    np.testing.assert_allclose(bijector.inverse(tf.identity(y), context=c), x, atol=1e-12)
    value = bijector.forward_log_det_jacobian(x, context=c)
    truth = layer.forward_and_log_det(X + 1, log_det=Exact(), context=C)[1]
    np.testing.assert_allclose(value[1], truth, atol=1e-12)
    np.testing.assert_allclose(bijector.inverse_log_det_jacobian(y, context=c), -value, atol=1e-11)
    one = bijector.forward(x[0, 0], context=C[0])
    np.testing.assert_allclose(one, y[0, 0], atol=1e-14)
    chain = tfb.Chain([tfb.Shift(tf.ones(2, tf.float64)), bijector])
    np.testing.assert_allclose(chain.forward(x, block={"context": c}), y + 1, atol=1e-14)
    base = tfd.Sample(tfd.Normal(tf.zeros([], tf.float64), 1.0), EVENT)
    density = tfd.TransformedDistribution(base, tfb.Invert(bijector))
    wanted = base.log_prob(y) + value
    np.testing.assert_allclose(
        density.log_prob(x, bijector_kwargs={"context": c}), wanted, atol=1e-11
    )
    for context, message in ((None, "is conditional"), (C[:, :2], r"shape \[\.\.\., 3\]")):
        with pytest.raises(ValueError, match=message):
            bijector.forward(x, context=context)


def test_a_remembered_preimage_is_of_its_context(bijector, monkeypatch):
    calls, solve = [], bijector.layer.invert
    monkeypatch.setattr(bijector.layer, "invert", lambda *a, **k: calls.append(1) or solve(*a, **k))
    c, other = tf.constant(C), tf.constant(C[::-1].copy())
    y = bijector.forward(tf.constant(X), context=c)
    assert bijector.inverse(y, context=c) is not None
    assert not calls  # remembered
    assert np.abs(bijector.inverse(y, context=other) - X).max() > 1e-3
    assert len(calls) == 1
    array = C.copy()
    y = bijector.forward(tf.constant(X), context=array)
    array[:] = C[::-1]
    assert np.abs(bijector.inverse(y, context=array) - X).max() > 1e-3
    y = bijector.forward(tf.constant(X), context=c)
    # Newer than what is remembered; nor does it watch the weights, which would show, too.
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(c)
        total = tf.reduce_sum(bijector.inverse(y, context=c))
    assert tape.gradient(total, c) is not None
    y = bijector.forward(tf.constant(X), context=array)
    with pytest.raises(ValueError, match="is conditional: give context"):
        bijector.inverse(y)
