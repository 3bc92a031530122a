"""Models small enough for every test, moved away from their initial weights."""

import keras
import numpy as np

from tf_iresnet.models import IResNetClassifier, IResNetFlow, IResNetHybrid

LEVELS = 8
EVENT = (4, 4, 1)


def pixels(count: int, event=EVENT, seed: int = 0) -> np.ndarray:
    """Dequantised images around one pattern, in (0, LEVELS)."""
    rng = np.random.default_rng(seed)
    pattern = np.linspace(1.0, LEVELS - 1.0, int(np.prod(event))).reshape(event)
    x = pattern + rng.standard_normal((count, *event))
    return np.clip(x, 0.01, LEVELS - 0.01).astype("float32")


def points(count: int, dims: int, seed: int = 0) -> np.ndarray:
    """Correlated normal points with a mean."""
    rng = np.random.default_rng(seed)
    mix = np.eye(dims) + 0.5 * np.eye(dims, k=1)
    return (1.0 + rng.standard_normal((count, dims)) @ mix).astype("float32")


def flow(event=EVENT, **changes) -> IResNetFlow:
    keras.utils.set_random_seed(0)
    arguments = {"levels": LEVELS, "blocks": (1, 1), "hidden": 8, "ema_momentum": None}
    return IResNetFlow(event, **{**arguments, **changes})


def classifier(event=EVENT, classes=3, **changes) -> IResNetClassifier:
    keras.utils.set_random_seed(0)
    arguments = {"blocks": (1, 1), "hidden": 8, "padding": 1, "ema_momentum": None}
    return IResNetClassifier(event, classes, **{**arguments, **changes})


def hybrid(event=EVENT, classes=3, **changes) -> IResNetHybrid:
    keras.utils.set_random_seed(0)
    arguments = {"levels": LEVELS, "blocks": (1, 1), "hidden": 8, "ema_momentum": None}
    return IResNetHybrid(event, classes, **{**arguments, "head_width": 4, **changes})


def train(model, data, steps: int = 3, rate: float = 0.03):
    """A few eager steps, since tracing would take most of the time."""
    if not model.compiled:
        model.compile(keras.optimizers.Adam(rate), run_eagerly=True)
    if not model.initialized:
        model.adapt(data)
    for _ in range(steps):
        model.train_step(data)
    return model


def values(variables) -> list[np.ndarray]:
    return [v.numpy() for v in variables]


def values_of(variables) -> list[np.ndarray]:
    """As `values`, of a distribution strategy's variables, too."""
    return [np.asarray(keras.ops.convert_to_tensor(v)) for v in variables]


def assert_same(first, second):
    """Equality of each bit of two lists of arrays."""
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
