"""Every argument of every public class: what it can't be is refused by its name."""

import inspect

import keras
import numpy as np
import pytest

from tf_iresnet import fixed_point, layers, log_det, models
from tf_iresnet.bijectors import KerasBijector
from tf_iresnet.fixed_point import Anderson, Picard
from tf_iresnet.initializers import DeltaOrthogonal
from tf_iresnet.layers import (
    Conditioned,
    InvertibleLayer,
    InvertibleResidual,
    InvertibleSequential,
    LipSwish,
    MultiScale,
    SpectralBranch,
    SpectralDense,
    SpectralLayer,
)
from tf_iresnet.layers.densenet import ConcatenatedLayer
from tf_iresnet.layers.gaussianization import MarginalGaussianization
from tf_iresnet.layers.preprocessing import ImagePreprocessing
from tf_iresnet.log_det import Exact, LogDetEstimator, SeriesEstimator
from tf_iresnet.models import IResNetClassifier, IResNetFlow, IResNetHybrid
from tf_iresnet.models.head import LatentHead
from tf_iresnet.models.prior import DiagonalNormal
from tf_iresnet.models.training.averaging import WeightAverage

pytestmark = pytest.mark.quick

WRONG = ["a", [3], -1, float("nan"), None, object(), {"a": 1}]

# What a class needs; all others have defaults.
NEEDED = {
    "SpectralDense": {"units": 3},
    "SpectralConv1D": {"filters": 3, "kernel_size": 3},
    "SpectralConv2D": {"filters": 3, "kernel_size": 3},
    "SpectralConv3D": {"filters": 3, "kernel_size": 3},
    "SmoothActivation": {"function_name": "elu"},
    "Conditioned": {"layer": InvertibleResidual(context_size=1), "context": [1.0]},
    "InvertibleSequential": {"layers": [layers.ActNorm()]},
    "MultiScale": {"scales": [layers.ActNorm()]},
    "InjectivePadding": {"channels": 1},
    "ConcatenatedLayer": {"linear": SpectralDense(3), "activation": LipSwish()},
    "IResNetFlow": {"event_shape": (2,), "levels": None, "blocks": (1,), "hidden": 4},
    "IResNetHybrid": {"event_shape": (2,), "classes": 2, "levels": None, "blocks": (1,)},
    "IResNetClassifier": {"event_shape": (4, 4, 1), "classes": 2, "blocks": (1,), "hidden": 4},
    "WeightAverage": {"momentum": 0.9},
    "LatentHead": {"classes": 2},
    "KerasBijector": {"layer": layers.ActNorm(), "event_shape": (2,)},
}

# What of the above an argument may well be.
ALLOWED = {
    "options": [None],
    "architecture": [None],
    "coeff": [None],
    "context_size": [None],
    "context": [[3]],
    "kernel_size": {"SpectralConv1D": [[3]]},
    "kernel_sizes": [[3]],
    "event_shape": [[3]],
    "blocks": [[3]],
    "hidden": {"IResNetFlow": [[3]], "IResNetHybrid": [[3]], "IResNetClassifier": [[3]]},
    "branch": {"InvertibleResidual": [None]},
    "activation": {f"Spectral{kind}": [None] for kind in ("Dense", "Conv1D", "Conv2D", "Conv3D")},
    "kernel_regularizer": [None],
    "bias_regularizer": [None],
    "log_det": [None],
    "eval_log_det": [None],
    "solver": [None],
    "name": ["a", None],
    "atol": [None],
    "rtol": [None],
    "levels": {"IResNetFlow": [None], "IResNetHybrid": [None]},
    "preprocessing": [None],
    "ema_momentum": [None],
    "seed": {
        "IResNetFlow": [-1],
        "Dequantize": [-1],
        "IResNetHybrid": [-1],
        "DeltaOrthogonal": [-1, None],
    },
}
ABSTRACT = {InvertibleLayer, SpectralLayer, LogDetEstimator, SeriesEstimator, fixed_point.Solver}
OTHERS = [
    ConcatenatedLayer,
    DeltaOrthogonal,
    DiagonalNormal,
    ImagePreprocessing,
    LatentHead,
    MarginalGaussianization,
    WeightAverage,
    KerasBijector,
]


def public_classes():
    for module in (layers, log_det, fixed_point, models):
        for name in module.__all__:
            made = getattr(module, name)
            data = inspect.isclass(made) and issubclass(made, (tuple, Exception))
            if inspect.isclass(made) and made not in ABSTRACT and not data:
                yield made
    yield from OTHERS


def arguments_of(kind):
    """The names of all arguments, those that a class hands on to its parent among them."""
    names = {}
    for base in kind.__mro__[:-1]:
        if not base.__module__.startswith("tf_iresnet"):
            break
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base).parameters.values()
        names.update(dict.fromkeys(p.name for p in parameters if p.kind != p.VAR_KEYWORD))
        if not any(p.kind == p.VAR_KEYWORD and p.name != "kwargs" for p in parameters):
            break  # a parent's arguments are not the class's own
    return names


def allowed(kind, argument):
    values = ALLOWED.get(argument, [])
    return values.get(kind.__name__, []) if isinstance(values, dict) else values


CASES = [(kind, argument) for kind in public_classes() for argument in arguments_of(kind)]


def test_the_cases_are_of_all_classes():
    kinds = {kind.__name__ for kind, _ in CASES}
    assert {"SpectralDense", "IResNetHybrid", "RussianRoulette", "Anderson", "LatentHead"} <= kinds
    named = {(kind.__name__, argument) for kind, argument in CASES}
    assert {("IResNetHybrid", "alpha"), ("IResNetFlow", "seed"), ("Exact", "rows")} <= named
    assert len(CASES) > 120


@pytest.mark.parametrize(
    ("kind", "argument"), CASES, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_wrong_value_is_refused_by_the_argument_s_name(kind, argument):
    needed = NEEDED.get(kind.__name__, {})
    for value in WRONG:
        if any(value is each or value == each for each in allowed(kind, argument)):
            continue
        with pytest.raises((ValueError, TypeError)) as error:
            kind(**{**needed, argument: value})
        text = str(error.value)
        assert argument in text, (value, text)
        assert any(word in text for word in ("got", "give", "leave", "pass")), (value, text)
        assert "\n" not in text


NUMBERS = {
    "coeff": lambda: SpectralDense(3, coeff=np.float32(0.5)).coeff,
    "momentum": lambda: WeightAverage(np.float64(0.5)).momentum,
    "ridge": lambda: layers.Whitening(np.float16(0.5)).ridge,
    "probability": lambda: log_det.RussianRoulette(probability=np.float32(0.5)).probability,
    "atol": lambda: Picard(atol=np.float32(0.5)).atol,
    "alpha": lambda: ImagePreprocessing(alpha=np.float32(0.25)).alpha * 2,
    "label_smoothing": lambda: (
        models.IResNetHybrid(
            (2,), 2, levels=None, blocks=(1,), hidden=4, label_smoothing=np.float32(0.5)
        ).label_smoothing
    ),
}
INTEGERS = {
    "units": lambda: SpectralDense(np.int64(3)).units,
    "kernel_size": lambda: layers.SpectralConv1D(2, np.int32(3)).kernel_size[0],
    "hidden": lambda: SpectralBranch(hidden=np.uint8(3)).hidden,
    "memory": lambda: Anderson(memory=np.int16(3)).memory,
    "rows": lambda: Exact(np.int64(3)).rows,
}


@pytest.mark.parametrize("make", [*NUMBERS.values(), *INTEGERS.values()], ids=[*NUMBERS, *INTEGERS])
def test_the_scalars_of_numpy_are_numbers(make):
    value = make()
    assert type(value) in (int, float)  # so that a configuration is JSON
    assert value in (0.5, 3)


@pytest.mark.parametrize("value", ["a", 1.5, [1.0], object(), [1, "a"]])
def test_a_seed_holds_integers(value):
    block, x = InvertibleResidual(hidden=4), np.zeros((2, 3), "float32")
    with pytest.raises(ValueError, match="seed must be an integer or two or three"):
        block.forward_and_log_det(x, seed=value)
    assert not block.built


@pytest.mark.parametrize("value", ["exact", 3, Exact])
def test_a_log_det_is_an_estimator(value):
    block, x = InvertibleResidual(hidden=4), np.zeros((2, 3), "float32")
    with pytest.raises(ValueError, match=r"log_det must be a LogDetEstimator such as Exact\(\)"):
        block.forward_and_log_det(x, log_det=value)


@pytest.mark.parametrize(
    "option", [{"hidden": 8}, {"activation": "elu"}, {"power_iterations": 3}, {"context_size": 2}]
)
def test_a_block_does_not_take_arguments_of_a_branch_that_it_is_given(option):
    (name,) = option
    with pytest.raises(ValueError, match=f"{name}=.* leave {name} out"):
        InvertibleResidual(SpectralBranch(), **option)


def test_what_is_allowed_is_taken():
    assert InvertibleResidual(SpectralBranch(hidden=2), coeff=0.5).branch.hidden == 2
    Conditioned(InvertibleResidual(context_size=1), [3])
    MultiScale(iter([layers.ActNorm()]))
    InvertibleSequential((layers.ActNorm(),))
    for kind in (IResNetFlow, IResNetHybrid, IResNetClassifier):
        assert kind(**NEEDED[kind.__name__], ema_momentum=None).average is None
    assert SpectralDense(3, activation=keras.layers.ReLU()).activation.name.startswith("re_lu")
