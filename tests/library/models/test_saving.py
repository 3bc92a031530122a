"""Models written and read again."""

import json

import keras
import numpy as np
import pytest

from tests.library import small_models as small
from tf_iresnet.fixed_point import Picard
from tf_iresnet.layers import Whitening
from tf_iresnet.log_det import PowerSeries, RussianRoulette
from tf_iresnet.models import IResNetClassifier, IResNetFlow, IResNetHybrid
from tf_iresnet.models.density import DensityModel

X = small.pixels(16)
LABELS = np.arange(16) % 3
DATA = {"flow": X, "classifier": (X, LABELS), "hybrid": (X, LABELS)}


def make(name):
    options = {"hidden": 4, "kernel_sizes": (3, 1), "ema_momentum": 0.9}
    if name == "flow":
        return small.flow(seed=3, **options)
    if name == "hybrid":
        return small.hybrid(seed=3, factor_out=True, **options)
    return small.classifier(**options)


def compiled(name):
    model = make(name)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(0.02), loss=loss if name == "classifier" else None, run_eagerly=True
    )
    return model


@pytest.fixture(scope="module", params=DATA)
def model(request):
    """A compiled model after two steps; the parameter is its kind."""
    model = compiled(request.param)
    model.adapt(X)
    for _ in range(2):
        model.train_step(DATA[request.param])
    model.kind = request.param
    return model


def outputs(model):
    z = model.encode(X)
    values = [z, model.decode(z), model(X)]
    if isinstance(model, DensityModel):
        values += [model.log_prob(X, seed=1), model.sample(2, seed=1)]
    return [np.asarray(value) for value in values]


def test_a_keras_file_keeps_the_model_and_its_training(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")  # safe mode
    assert type(loaded) is type(model)
    assert loaded.initialized
    small.assert_same(loaded.get_weights(), model.get_weights())
    small.assert_same(
        small.values(loaded.optimizer.variables), small.values(model.optimizer.variables)
    )
    small.assert_same(outputs(loaded), outputs(model))
    loaded.run_eagerly = True
    for each in (loaded, model):
        each.train_step(DATA[model.kind])
    small.assert_same(loaded.get_weights(), model.get_weights())


def test_a_weights_file_fills_a_new_model(model, tmp_path):
    model.save_weights(tmp_path / "model.weights.h5")
    other = make(model.kind)
    assert not other.initialized
    for variable in other.trainable_variables:
        variable.assign(variable + 0.1)
    other.load_weights(tmp_path / "model.weights.h5")
    assert other.initialized
    small.assert_same(other.get_weights(), model.get_weights())
    small.assert_same(outputs(other), outputs(model))


def test_a_file_of_the_older_format_is_refused(model, tmp_path):
    for name in ("model.h5", "model.hdf5"):
        with pytest.raises(ValueError, match=r"saved to a file .keras, .* got .*model\."):
            model.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"saved to a file \.keras"):
        keras.saving.save_model(model, str(tmp_path / "other.h5"))
    model.save(tmp_path / "model.keras")  # nothing of the attempts stays
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is type(model.optimizer)


def test_a_loaded_model_is_not_initialised_again(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.compile(keras.optimizers.SGD(0.0), loss=loaded.loss, run_eagerly=True)
    before = small.values(loaded.trainable_variables)
    data = DATA[model.kind]
    loaded.fit(0.5 * X, None if model.kind == "flow" else data[1], verbose=0)
    small.assert_same(small.values(loaded.trainable_variables), before)


def test_a_frozen_model_keeps_its_averages(tmp_path):
    model = small.flow((2,), levels=None, blocks=(1,), ema_momentum=0.9)
    model.trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not loaded.trainable
    small.assert_same(loaded.get_weights(), model.get_weights())


EVERY_ARGUMENT = {
    IResNetFlow: {
        "event_shape": (4, 4, 2),
        "levels": 16,
        "preprocessing": "shift",
        "alpha": 0.01,
        "blocks": (1, 2),
        "hidden": (4, 6),
        "kernel_sizes": (3, 3),
        "coeff": 0.7,
        "activation": "elu",
        "factor_out": True,
        "actnorm": False,
        "whitening": True,
        "prior": "standard",
        "power_iterations": 2,
        "log_det": PowerSeries(terms=4),
        "eval_log_det": RussianRoulette(exact_terms=7),
        "solver": Picard(max_steps=50),
        "ema_momentum": 0.9,
        "seed": 5,
    },
    IResNetClassifier: {
        "event_shape": (4, 4, 2),
        "classes": 5,
        "blocks": (1, 2),
        "hidden": (4, 6),
        "padding": 2,
        "squeeze_first": True,
        "kernel_sizes": (3, 3),
        "coeff": None,
        "activation": "softplus",
        "actnorm": False,
        "whitening": True,
        "power_iterations": 2,
        "solver": Picard(max_steps=50),
        "ema_momentum": None,
    },
}
EVERY_ARGUMENT[IResNetHybrid] = {
    **EVERY_ARGUMENT[IResNetFlow],
    "classes": 5,
    "classification_weight": 0.3,
    "label_smoothing": 0.1,
    "head_width": 3,
}


@pytest.mark.parametrize(("kind", "arguments"), EVERY_ARGUMENT.items())
def test_a_config_holds_every_argument(kind, arguments):
    model = kind(**arguments, name="mine", dtype="mixed_bfloat16")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == model.get_config()
    assert again.name == "mine"
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert [w.shape for w in again.weights] == [w.shape for w in model.weights]
    for name, value in arguments.items():
        stored = again.get_config()[name]
        if hasattr(value, "get_config"):
            stored = getattr(again if name == "eval_log_det" else again.architecture, name)
            stored = stored.get_config()
            value = value.get_config()
        assert stored == value, name


def test_the_layers_are_made_as_the_config_says():
    model = IResNetFlow(**EVERY_ARGUMENT[IResNetFlow])
    scales = model.flow.layers[1].scales
    assert all(isinstance(scale.layers[1], Whitening) for scale in scales)
    blocks = [part for scale in scales for part in scale.layers[2:]]
    assert [block.branch.hidden for block in blocks] == [4, 6, 6]
    for block in blocks:
        assert block.coeff == 0.7
        assert block.branch.kernel_sizes == (3, 3)
        assert block.branch.activation == "elu"
        assert block.branch.power_iterations == 2
        assert block.log_det == PowerSeries(terms=4)
        assert block.solver.max_steps == 50
