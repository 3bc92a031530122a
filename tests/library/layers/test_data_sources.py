"""Sources of data: arrays, data sets, loaders, generators, contexts; and what is none."""

import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library.layers.from_data import X, actnorm, assert_standardises, flow, stack
from tf_iresnet.layers import ActNorm, Conditioned, InvertibleResidual, InvertibleSequential

RNG = np.random.default_rng(np.random.get_bit_generator())  # begun anew by each test


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
