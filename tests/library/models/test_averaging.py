"""The moving average of a model's weights, and the spectral state that goes with it."""

import keras
import numpy as np
import pytest

from tests.library import small_models as small
from tf_iresnet.log_det import PowerSeries

MOMENTUM = 0.3  # the warm-up's 2/11 and 3/12 are below it, 4/13 is above
BLOCK = {"blocks": (1,), "hidden": 4, "coeff": 0.5, "log_det": PowerSeries(terms=1)}


@pytest.fixture(scope="module")
def trained():
    """A model after four steps, and its weights before the first and after each."""
    model = small.flow(ema_momentum=MOMENTUM, **BLOCK)
    x = small.pixels(16)
    small.train(model, x, 0)
    recorded = [small.values(model.trainable_variables)]
    for _ in range(4):
        model.train_step(x)
        recorded.append(small.values(model.trainable_variables))
    return model, recorded


@pytest.fixture
def model(trained):
    model, _ = trained
    saved = model.get_weights()
    yield model
    model.set_weights(saved)


def shadows(model):
    return small.values(model.average.shadows)


def test_shadows_follow_the_recursion(trained):
    model, recorded = trained
    expected = recorded[0]  # after ActNorm's initialisation
    for step, weights in enumerate(recorded[1:], 1):
        momentum = min(MOMENTUM, (1 + step) / (10 + step))
        expected = [
            momentum * a + (1 - momentum) * w for a, w in zip(expected, weights, strict=True)
        ]
    assert int(model.average.count) == 4
    for shadow, truth, last in zip(shadows(model), expected, recorded[-1], strict=True):
        np.testing.assert_allclose(shadow, truth, rtol=1e-5, atol=1e-6)
        assert np.abs(shadow - last).max() > 1e-5


def test_evaluation_is_that_of_a_model_with_the_averages(model):
    x = small.pixels(12, seed=2)
    plain = small.flow(**BLOCK)
    for variable, shadow in zip(plain.trainable_variables, shadows(model), strict=True):
        variable.assign(shadow)
    plain.converge_spectral_state()
    plain.compile(run_eagerly=True)
    options = {"batch_size": 5, "verbose": 0, "return_dict": True}
    truth = plain.evaluate(x, **options)
    logs = model.evaluate(x, **options)
    np.testing.assert_allclose(logs["bits_per_dim"], truth["bits_per_dim"], rtol=1e-5)
    assert logs["loss"] == logs["bits_per_dim"]
    # Batches of any size, each example with its own noise: the mean over the images.
    seed = plain.objective.step_seed(-1, 0)
    np.testing.assert_allclose(
        np.mean(plain.bits_per_dim(x, seed)), truth["bits_per_dim"], rtol=1e-5
    )


def test_evaluation_leaves_every_weight_as_it_was(model):
    class Look(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            self.seen = small.values(model.trainable_variables)

    before, look = model.get_weights(), Look()
    model.evaluate(small.pixels(4), verbose=0, callbacks=[look])
    small.assert_same(look.seen, shadows(model))
    small.assert_same(model.get_weights(), before)


def test_an_error_restores_the_weights_too(model):
    before = model.get_weights()
    context = model.averaged_weights()
    context.__enter__()
    small.assert_same(small.values(model.trainable_variables), shadows(model))
    assert not context.__exit__(KeyError, KeyError(), None)  # the error goes on
    small.assert_same(model.get_weights(), before)


def test_norms_follow_the_averages_and_the_weights(model):
    layer = next(model.flow.spectral_layers())
    before = layer.normalized_kernel().numpy()
    with model.averaged_weights():
        assert np.any(layer.known_norm.kernel.numpy() != layer.kernel.numpy())
        assert layer.lipschitz_estimate() <= layer.coeff * (1 + 1e-6)
        assert layer.norm_bound() <= layer.coeff * 1.005
        np.testing.assert_array_equal(layer.known_norm.kernel, layer.kernel)
    np.testing.assert_array_equal(layer.normalized_kernel(), before)


def test_contexts_nest(model):
    before = model.get_weights()
    with model.averaged_weights():
        outer = model.get_weights()
        with model.averaged_weights():
            small.assert_same(small.values(model.trainable_variables), shadows(model))
        small.assert_same(model.get_weights(), outer)
    small.assert_same(model.get_weights(), before)


def test_the_averages_can_become_the_weights(model):
    averages = shadows(model)
    model.use_averaged_weights()
    small.assert_same(small.values(model.trainable_variables), averages)
    for layer in model.flow.spectral_layers():
        assert layer.lipschitz_bound() < 0.5 * 1.02


def test_before_the_first_step_the_weights_are_their_own_average():
    model = small.flow((2,), levels=None, blocks=(1,), ema_momentum=0.9)
    model.prior.loc.assign([1.0, 2.0])  # weights set by hand must count
    with model.averaged_weights():
        np.testing.assert_array_equal(model.prior.loc, [1.0, 2.0])


def test_no_average():
    model = small.flow((2,), levels=None, blocks=(1,), ema_momentum=None)
    assert not [w.path for w in model.weights if "shadow" in w.path]
    small.train(model, small.points(8, 2), 2)
    before = model.get_weights()
    with model.averaged_weights():
        pass
    small.assert_same(model.get_weights(), before)
    model.use_averaged_weights()
    trainable = {v.path for v in model.trainable_variables}
    for variable, old in zip(model.weights, before, strict=True):
        if variable.path in trainable:
            np.testing.assert_array_equal(variable, old)


def test_frozen_parts_are_averaged_along():
    model = small.flow((2,), levels=None, blocks=(1,), ema_momentum=0.9)
    model.prior.trainable = False
    small.train(model, small.points(8, 2), 2)
    np.testing.assert_array_equal(model.prior.loc, [0.0, 0.0])
    with model.averaged_weights():
        assert np.all(np.asarray(model.prior.loc) == 0)
    model.trainable = False
    before = model.get_weights()
    model.evaluate(small.points(8, 2), verbose=0)
    small.assert_same(model.get_weights(), before)
