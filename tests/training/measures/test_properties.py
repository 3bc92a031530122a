"""Table 1 of the paper against what is measured of one layer of each system."""

import numpy as np
import pytest

from tf_iresnet.layers import InvertibleResidual
from tf_iresnet.log_det import RussianRoulette
from training.measures.properties import PROPERTIES, _counted, measure_properties, one_layer_each

# In the order of PROPERTIES; None where the paper says n/a. "Residual Flow" is its successor.
PAPER = {
    "ResNet": (True, True, None, None, None, None),
    "NICE": (False, True, True, False, True, None),
    "Real-NVP": (False, True, True, True, True, None),
    "Glow": (False, True, True, True, True, None),
    "FFJORD": (True, False, False, True, False, True),
    "i-ResNet": (True, True, False, True, False, False),
    "Residual Flow": (True, True, False, True, False, True),
}


def values(measured):
    return {
        name: tuple(properties[key]["value"] for key in PROPERTIES)
        for name, properties in measured.items()
    }


@pytest.fixture(scope="module")
def layers():
    return one_layer_each(seed=1)


@pytest.fixture(scope="module")
def measured():
    """Of equal layers, by the same seed."""
    return measure_properties(seed=1)


def test_the_paper_s_table_is_what_is_measured(measured):
    assert values(measured) == PAPER
    for properties in measured.values():
        for entry in properties.values():
            assert entry["evidence"]
            assert all(np.isfinite(number) for number in entry["evidence"].values())


@pytest.mark.quick
def test_a_layer_under_another_name_changes_the_marks(layers):
    swapped = {"i-ResNet": layers["Real-NVP"], "Glow": layers["NICE"]}
    assert values(measure_properties(1, swapped)) == {
        "i-ResNet": PAPER["Real-NVP"],
        "Glow": PAPER["NICE"],
    }


def test_a_roulette_without_its_weights_is_found_to_be_biased(layers):
    class Unweighted(RussianRoulette):
        def terms_and_weights(self, seed, dtype):
            terms, weight = super().terms_and_weights(seed, dtype)
            return terms, lambda k: 0 * weight(k) + 1

    block = InvertibleResidual(
        hidden=16, coeff=0.9, dtype="float64", log_det=Unweighted(probability=0.5)
    )
    block.build((None, 4))
    block.set_weights(layers["Residual Flow"].get_weights())
    (marks,) = values(measure_properties(1, {"unweighted": block})).values()
    assert marks == PAPER["i-ResNet"]


def test_evaluations_are_those_of_the_network(layers, measured):
    glow, flow = measured["Glow"], measured["Residual Flow"]
    assert glow["analytic inverse"]["evidence"]["evaluations"] == 1
    x = 2.0 * np.random.default_rng(1).standard_normal((64, 4))
    layer = layers["Residual Flow"]
    with _counted(layer):  # rounds as the counted function does
        steps = layer.inverse(layer(x), return_result=True).steps
    assert flow["analytic inverse"]["evidence"]["evaluations"] == np.max(steps)
