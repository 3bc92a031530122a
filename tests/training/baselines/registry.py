"""The baselines' invertible layers, which keep the library's contract as well."""

from tests.library.registry import KNOWN, Case, randomize_part
from training.baselines.autoregressive import MaskedAutoregressive
from training.baselines.coupling import Coupling
from training.baselines.linear import InvertibleLinear
from training.baselines.networks import Affine


def _exact(kind, event, *arguments):
    return Case(lambda dtype: kind(*arguments, dtype=dtype), event, False)


CASES = {
    "coupling": _exact(Coupling, (5,), [0, 3], 6),
    "coupling of images": _exact(Coupling, (2, 3, 4), [1, 2], 4, (3, 1), "sigmoid"),
    "invertible linear": _exact(InvertibleLinear, (2, 2, 3)),
    "autoregressive": _exact(MaskedAutoregressive, (2, 2, 1), [7], True),
    "autoregressive convolutions": _exact(MaskedAutoregressive, (3, 2, 2), [5], False, (3, 1)),
}
KINDS = ("coupling of images", "invertible linear", "autoregressive")
KNOWN.update(CASES)


@randomize_part.register
def _(part: Affine, rng) -> None:
    for weight in part.weights:
        weight.assign(0.3 * rng.standard_normal(weight.shape))


@randomize_part.register
def _(part: InvertibleLinear, rng) -> None:
    noise = 0.2 * rng.standard_normal(part.lower_upper.shape)
    part.lower_upper.assign_add(noise)
