"""Options: declared once, taken by everything that has blocks, as keywords or as a value."""

import dataclasses
import inspect

import keras
import numpy as np
import pytest

from tf_iresnet.keras_private import layers_inside
from tf_iresnet.layers import DenseNetBranch, InvertibleResidual, SpectralBranch
from tf_iresnet.layers.block_options import BlockOptions, BranchOptions, ResidualOptions
from tf_iresnet.models import IResNetClassifier, IResNetFlow, IResNetHybrid
from tf_iresnet.models.architecture import IResNet

pytestmark = pytest.mark.quick

SMALL = {"blocks": (1,), "hidden": 4}
MODELS = {
    IResNetFlow: lambda **o: IResNetFlow((4, 4, 1), **o),
    IResNetClassifier: lambda **o: IResNetClassifier((4, 4, 1), 3, **o),
    IResNetHybrid: lambda **o: IResNetHybrid((4, 4, 1), 3, **o),
}
TAKERS = [
    (SpectralBranch, BranchOptions),
    (DenseNetBranch, BranchOptions),
    (InvertibleResidual, BlockOptions),
    *((kind, IResNet) for kind in MODELS),
]


@pytest.mark.parametrize(("kind", "options"), TAKERS)
def test_every_option_is_shown_among_the_keywords(kind, options):
    shown = inspect.signature(kind.__init__).parameters
    assert set(options.names()) <= set(shown)
    for name in options.names():
        assert shown[name].kind is not inspect.Parameter.VAR_KEYWORD
        assert shown[name].default is not inspect.Parameter.empty


@pytest.mark.parametrize("kind", MODELS)
def test_a_value_makes_the_same_model_as_its_keywords(kind):
    changes = {**SMALL, "coeff": 0.7, "activation": "tanh", "whitening": True, "recompute": True}
    by_keywords = MODELS[kind](**changes, name="m")
    value = IResNet(**changes)
    by_value = MODELS[kind](architecture=value, name="m")
    assert by_value.get_config() == by_keywords.get_config()
    changed = MODELS[kind](architecture=value, coeff=0.6, name="m")
    assert changed.architecture == dataclasses.replace(value, coeff=0.6)
    assert changed.coeff == 0.6
    with pytest.raises(AttributeError, match="no attribute 'coef'"):
        _ = changed.coef
    assert {layer.coeff for layer in changed.flow.spectral_layers()} == {0.6}


def test_a_value_makes_the_same_block_as_its_keywords():
    changes = {"coeff": 0.7, "activation": "tanh", "recompute": True}
    by_value = InvertibleResidual(hidden=3, options=BlockOptions(**changes), name="b")
    assert by_value.get_config() == InvertibleResidual(hidden=3, **changes, name="b").get_config()
    again = InvertibleResidual(hidden=3, options=BlockOptions(**changes), coeff=0.6)
    assert again.coeff == again.branch.coeff == 0.6
    assert again.recompute


@pytest.mark.parametrize("kind", [BranchOptions, ResidualOptions, BlockOptions, IResNet])
def test_a_value_is_its_configuration(kind):
    value = kind()
    assert kind.from_config(value.get_config()).get_config() == value.get_config()


def test_an_architecture_is_a_file_s_object():
    value = IResNet(**SMALL, coeff=0.7)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(value))
    assert again.get_config() == value.get_config()


@pytest.mark.parametrize("kind", MODELS)
def test_branches_without_bias_keep_zero(kind):
    model = MODELS[kind](**SMALL, use_bias=False)
    blocks = [x for x in layers_inside(model.flow) if isinstance(x, InvertibleResidual)]
    assert blocks
    for block in blocks:
        assert {v.name for v in block.trainable_variables} <= {"kernel", "beta"}
        zeros = np.zeros((2, *(block.branch.input_spec.axes[a] for a in (1, 2, 3))), "float32")
        np.testing.assert_array_equal(block.branch(zeros), zeros)
