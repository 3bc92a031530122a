"""What a public method checks, it checks once: no more for a flow of more blocks."""

import collections
import sys

import keras
import pytest

from tests.library import small_models as small

CHECKS = {
    "check_context",
    "_prepared",
    "_check_input",
    "as_seed",
    "convert",
    "learning",
    "check_instance",
    "_norms_up_to_date",
}


def checks(call):
    """How often each check runs in a call."""
    counts = collections.Counter()

    def note(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_name in CHECKS and "tf_iresnet" in code.co_filename:
            counts[code.co_name] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return counts


CALLS = {
    "log_prob": lambda model, x: model.log_prob(x, seed=0),
    "encode": lambda model, x: model.encode(x),
    "decode": lambda model, x: model.decode(model.encode(x)),
    "sample": lambda model, x: model.sample(2, seed=0),
    "train_step": lambda model, x: model.train_step(x),
    "a layer's call": lambda model, x: model.flow(x),
    "a layer's log-determinant": lambda model, x: model.flow.forward_and_log_det(x, seed=0),
    "a layer's inverse": lambda model, x: model.flow.inverse(model.flow(x)),
}


@pytest.fixture(scope="module")
def models():
    made = [small.flow(blocks=(count, 1), hidden=4, kernel_sizes=(1,)) for count in (1, 3)]
    for model in made:
        model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
        small.train(model, small.pixels(4), steps=1)
    return made


@pytest.mark.parametrize("name", CALLS)
def test_more_blocks_are_not_more_checks(name, models):
    x = small.pixels(4)
    few, many = (checks(lambda model=model: CALLS[name](model, x)) for model in models)
    assert few
    assert few == many
