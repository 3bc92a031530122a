"""What is logged beside the loss."""

import pytest

from tests.library import small_models as small
from tf_iresnet import certify
from training.loop.callbacks import estimated_lipschitz


def test_the_estimated_lipschitz_constant_is_close_to_the_proven_one():
    model = small.flow(
        branch="densenet", blocks=(1,), growth=6, depth=2, activation="clipswish", coeff=0.9
    )
    small.train(model, small.pixels(32), steps=2)
    assert estimated_lipschitz(model) == pytest.approx(certify(model).contraction, rel=2e-2)
