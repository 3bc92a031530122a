"""A layer that stands in several places of a model stays one, or its configuration is refused."""

import keras
import numpy as np
import pytest

from tf_iresnet.layers import (
    ActNorm,
    InvertibleResidual,
    InvertibleSequential,
    MultiScale,
    SpectralBranch,
    SpectralDense,
)

pytestmark = pytest.mark.quick

X = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")


def block():
    return InvertibleResidual(hidden=3, kernel_sizes=(1, 1))


def sequential():
    shared = block()
    return InvertibleSequential([shared, ActNorm(), shared])


def scales():
    shared = block()
    return MultiScale([shared, shared], factor_out=False)


def dense():
    return SpectralDense(4)


def in_keras(layer, twice=False):
    inputs = keras.Input((4,))
    y = layer(inputs)
    return keras.Model(inputs, layer(y) if twice else y)


MODELS = {
    "sequential": lambda: in_keras(sequential()),
    "scales": lambda: in_keras(scales()),
    "block twice": lambda: in_keras(block(), True),
    "dense twice": lambda: in_keras(dense(), True),
    "nested": lambda: in_keras(InvertibleSequential([sequential(), ActNorm()])),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_clones_and_files_share_what_the_model_shares(make, tmp_path):
    model = make()
    wanted = model(X)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded(X), wanted, rtol=1e-6, atol=1e-6)
    clone = keras.models.clone_model(model)
    for other in (loaded, clone):
        assert other.count_params() == model.count_params()
        assert [w.shape for w in other.weights] == [w.shape for w in model.weights]
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(clone(X), wanted, rtol=1e-6, atol=1e-6)


def one_branch_in_two_blocks():
    branch = SpectralBranch(hidden=3)
    return InvertibleSequential([InvertibleResidual(branch), InvertibleResidual(branch)])


def one_block_in_two_lists():
    shared = block()
    return InvertibleSequential([InvertibleSequential([shared]), shared])


@pytest.mark.parametrize("make", [one_branch_in_two_blocks, one_block_in_two_lists])
def test_what_a_configuration_can_not_say_is_refused(make, tmp_path):
    model = in_keras(make())
    for write in (
        keras.models.clone_model,
        lambda model: model.save(tmp_path / "m.keras"),
        lambda model: model.layers[-1].get_config(),
    ):
        with pytest.raises(ValueError, match=r"stands in both .* give each its own"):
            write(model)
    model.save_weights(tmp_path / "m.weights.h5")
    other = in_keras(make())
    assert np.abs(other(X) - model(X)).max() > 1e-3
    other.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_allclose(other(X), model(X), rtol=1e-6, atol=1e-6)
