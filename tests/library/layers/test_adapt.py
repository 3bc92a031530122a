"""What comes from data is set in every way of training, from many rows, and never over a choice."""

import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tests.library import small_models as small
from tf_iresnet.bijectors import KerasBijector
from tf_iresnet.layers import (
    ActNorm,
    Conditioned,
    InvertibleResidual,
    InvertibleSequential,
    MultiScale,
    Squeeze,
    Whitening,
)
from tf_iresnet.layers.gaussianization import MarginalGaussianization
from tf_iresnet.layers.rows import enough
from tf_iresnet.log_det import Exact, PowerSeries

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((64, 3)) * [0.02, 1.0, 300.0] + [5.0, -300.0, 4000.0]).astype("float32")


def flow(**changes):
    """A flow whose estimators, which are not the claim here, are quick to trace."""
    estimators = {"log_det": PowerSeries(terms=1), "eval_log_det": Exact()}
    arguments = {"levels": None, "blocks": (1,), "hidden": 4, "coeff": 0.8, **estimators}
    return small.flow((3,), **{**arguments, **changes})


def actnorm(model):
    (layer,) = (part for part in model._flatten_layers() if isinstance(part, ActNorm))
    return layer


def assert_standardises(layer, x, flag=1.0):
    """The weights of ActNorm by NumPy's moments of x."""
    x = np.asarray(x, "float64").reshape(-1, x.shape[-1])
    np.testing.assert_allclose(layer.bias, -x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(np.exp(layer.log_scale), 1 / x.std(0), rtol=1e-4)
    assert float(tf.convert_to_tensor(layer.initialized)) == flag


def assert_untouched(layer):
    for variable in layer.weights_from_data():
        start = np.eye(variable.shape[0]) if len(variable.shape) == 2 else np.zeros(variable.shape)
        np.testing.assert_array_equal(variable, start)


# --- every way of training ---


def stack():
    keras.utils.set_random_seed(0)
    block = InvertibleResidual(hidden=4, log_det=PowerSeries(terms=1))
    return InvertibleSequential([ActNorm(), block])


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


# --- sources ---


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return (X[16 * index : 16 * index + 16],)


class Torch:
    """A tensor as PyTorch's: it must leave its graph and device before NumPy may have it."""

    def __init__(self, value):
        self._value, self.shape, self.dtype = value, value.shape, value.dtype

    def detach(self):
        return self

    def cpu(self):
        return self._value

    def __array__(self, *arguments, **options):
        raise TypeError("still on its device")


def pieces():
    return [X[start : start + 16] for start in range(0, 64, 16)]


def loader(monkeypatch):
    """A stand-in for PyTorch's loader, as far as Keras looks at it."""

    class DataLoader:
        __module__ = "torch.utils.data.dataloader"
        batch_size, dataset = 16, X

        def __len__(self):
            return 4

        def __iter__(self):
            return iter([[Torch(piece)] for piece in pieces()])

    torch = types.ModuleType("torch")
    torch.utils = types.SimpleNamespace(data=types.SimpleNamespace(DataLoader=DataLoader))
    monkeypatch.setitem(sys.modules, "torch", torch)
    return DataLoader()


SOURCES = {
    "array": lambda _: X,
    "data set": lambda _: tf.data.Dataset.from_tensor_slices(X).batch(16),
    "alone in a tuple": lambda _: tf.data.Dataset.from_tensor_slices((X,)).batch(16),
    "sequence": lambda _: Sequence(),
    "loader": loader,
    "generator": lambda _: ((piece,) for piece in pieces()),
    "iterator": lambda _: iter([(piece,) for piece in pieces()]),
}


@pytest.mark.parametrize("source", SOURCES)
def test_all_sources_give_the_same_statistics(source, monkeypatch):
    layer = ActNorm()
    layer.adapt(SOURCES[source](monkeypatch))
    assert_standardises(layer, X)
    model = flow()
    model.adapt(SOURCES[source](monkeypatch))
    assert_standardises(actnorm(model), X)


@pytest.mark.parametrize("source", SOURCES)
def test_fit_takes_all_sources_and_trains_on_all_of_each(source, monkeypatch):
    model = flow()
    seen = []

    def record(data):
        seen.append(keras.utils.unpack_x_y_sample_weight(data)[0].numpy())
        return {"loss": tf.constant(0.0)}

    monkeypatch.setattr(model, "train_step", record)
    model.compile("adam", run_eagerly=True)
    data = SOURCES[source](monkeypatch)
    model.fit(data, batch_size=16, steps_per_epoch=4, shuffle=False, verbose=0)
    np.testing.assert_array_equal(np.concatenate(seen), X)
    assert_standardises(actnorm(model), X)


def test_a_generator_is_drawn_from_as_often_as_fit_trains():
    drawn = []

    def draw():
        for index in range(100):
            drawn.append(index)
            yield (X[index % 60 :][:4],)

    model = flow()
    model.train_step = lambda data: {"loss": tf.constant(0.0)}
    model.compile("adam", run_eagerly=True)
    model.fit(draw(), steps_per_epoch=2, epochs=3, shuffle=False, verbose=0)
    # Keras itself draws a few ahead to learn shapes and to fill its buffer; twice it draws none.
    assert drawn == list(range(len(drawn)))
    assert len(drawn) < 20


def test_contexts_reach_the_blocks_before():
    context = RNG.standard_normal((64, 2)).astype("float32")
    layers = InvertibleSequential([InvertibleResidual(hidden=4, context_size=2), ActNorm()])
    layers.build((None, 3))
    for layer in layers.spectral_layers():
        layer.context_kernel.assign(RNG.standard_normal(layer.context_kernel.shape))
    x = RNG.standard_normal((64, 3)).astype("float32")
    expected = layers.layers[0](x, context=context)
    layers.adapt(x, context=context)
    assert_standardises(layers.layers[1], expected)
    pairs = tf.data.Dataset.from_tensor_slices((x, context)).batch(9)
    layers.adapt(2 * x, context=context)
    layers.adapt(pairs)
    assert_standardises(layers.layers[1], expected)
    fixed = Conditioned(layers, [0.5, -1.0])
    fixed.adapt(x)
    assert_standardises(layers.layers[1], layers.layers[0](x, context=[[0.5, -1.0]] * 64))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("words",), "data must be an array.*str"),
        ((3.5,), "data must be an array.*float"),
        (({"a": X},), "data must be an array.*dict"),
        ((np.float32(1),), "scalar"),
        (((X, X[:5]),), "as many rows.*64 and 5"),
        ((X, X[:, :2]), "unconditional"),
        ((X[:, :2],), "shape"),
    ],
)
def test_what_holds_no_data_is_named(arguments, words):
    for target in (flow(), stack()):
        if isinstance(target, InvertibleSequential):
            target.build((None, 3))
        with pytest.raises(ValueError, match=words):
            target.adapt(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"batch_size": 2.5}, r"batch_size must be an integer of at least 1, got 2\.5"),
    ],
)
def test_numbers_of_adapt_are_checked(arguments, words):
    with pytest.raises(ValueError, match=words):
        ActNorm().adapt(X, **arguments)


def test_batches_have_their_own_size():
    with pytest.raises(ValueError, match="batch_size is for arrays"):
        ActNorm().adapt(iter(pieces()), batch_size=4)
    with pytest.raises(ValueError, match=r"one array.*image"):
        ActNorm().adapt(iter([{"image": X}]))


def test_adapt_in_a_graph_is_refused():
    layer = ActNorm()
    layer.build(X.shape)

    @tf.function
    def step(x):
        layer.adapt(x)

    with pytest.raises(ValueError, match=r"outside of tf\.function"):
        step(tf.constant(X))


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
