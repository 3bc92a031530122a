"""Baselines small enough for every test, moved away from their initial weights."""

import keras
import numpy as np

from tests.library.small_models import LEVELS
from training.baselines import FFJORD, MAF, NICE, BaselineFlow, Glow, RealNVP

EVENT = (4, 4, 1)
ARCHITECTURES = {
    "nice": NICE((2, 1), 4, (3, 1)),
    "realnvp": RealNVP((2, 1), 4, (3, 1)),
    "glow": Glow((1, 1), 4, (3, 1)),
    "glow additive": Glow((1, 1), 4, (3, 1), "additive"),
    "ffjord": FFJORD((1,), 4, (3, 3)),
    "maf": MAF((2,), 7),
    "maf of convolutions": MAF((2,), 5, kernel_sizes=(3, 1)),
}


def baseline(name: str, event=EVENT, **changes) -> BaselineFlow:
    keras.utils.set_random_seed(0)
    architecture = changes.pop("architecture", ARCHITECTURES[name])
    arguments = {"levels": LEVELS, "alpha": 0.01, "factor_out": True, "ema_momentum": None}
    return BaselineFlow(event, architecture, **{**arguments, **changes})


def moved(model, seed: int = 0, by: float = 0.2):
    """Adds noise to all trained weights, so that none is special."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign_add((by * rng.standard_normal(variable.shape)).astype(variable.dtype))
    for layer in model.flow._flatten_layers():
        if hasattr(layer, "initialized"):
            layer.initialized.assign(1.0)
    return model
