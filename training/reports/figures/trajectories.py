"""Figure 1: the paths of inputs through a plain and an invertible residual network."""

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from tf_iresnet import certify
from tf_iresnet.layers import InvertibleResidual, InvertibleSequential
from training.errors import RunError
from training.reports.figures.request import Drawing, Request
from training.reports.figures.style import BLACK, BLUE, PAGE, RED, letter, new_figure
from training.typing import Numbers

_REACH = 2.0  # inputs lie between minus this and this
_BLOCKS, _HIDDEN, _COEFF = 8, 32, 0.9
_STEPS, _RATE, _POINTS = 800, 3e-3, 64
_PATHS = 41


def target(x: np.ndarray) -> np.ndarray:
    """The map to learn: it falls in places, so no bijection of the line comes close."""
    return x + 1.6 * np.sin(2.4 * x)


def draw(request: Request) -> Drawing:
    """Trains both networks on the same map and draws their paths.

    Args:
      request: its seed is that of the weights.

    Returns:
      The figure. The numbers are each network's paths [block][input], how many pairs of
      neighbouring paths change their order, the least slope of the map, and its error.
    """
    x = np.linspace(-_REACH, _REACH, _PATHS, dtype=np.float32)
    networks = {
        "standard": _trained(None, request.seed),
        "invertible": _trained(_COEFF, request.seed),
    }
    numbers: Numbers = {"inputs": x.tolist(), "target": target(x).tolist()}
    for name, network in networks.items():
        numbers[name] = _described(network, x)
    bound = certify(networks["invertible"]).contraction
    if not bound < 1:
        raise RunError(f"the invertible network's bound {bound:.4f} is not below 1; try --seed")
    numbers["invertible"]["bound"] = bound
    return Drawing(_figure(x, numbers), _caption(numbers), numbers)


def _trained(coeff: float | None, seed: int) -> InvertibleSequential:
    keras.utils.set_random_seed(seed)
    network = InvertibleSequential(
        [
            InvertibleResidual(
                hidden=_HIDDEN, coeff=coeff, activation="elu", input_activation=False
            )
            for _ in range(_BLOCKS)
        ]
    )
    network.build((None, 1))
    inputs = np.linspace(-_REACH, _REACH, _POINTS, dtype=np.float32)[:, None]
    x, y = tf.constant(inputs), tf.constant(target(inputs).astype(np.float32))
    rate = keras.optimizers.schedules.CosineDecay(_RATE, _STEPS)
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=1.0)
    optimizer.build(network.trainable_variables)

    @tf.function(autograph=False)
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(network(x, training=True) - y))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)

    for _ in range(_STEPS):
        step()
    network.converge_spectral_state()
    return network


def _described(network: InvertibleSequential, x: np.ndarray) -> Numbers:
    paths = [x[:, None]]
    for block in network.layers:
        paths.append(block(paths[-1]).numpy())
    stacked = np.concatenate(paths, axis=1).T.astype(np.float64)
    steps = np.diff(stacked, axis=1)
    return {
        "paths": stacked.tolist(),
        "crossing_pairs": int((steps <= 0).any(axis=0).sum()),
        "least_slope": float((steps[-1] / np.diff(x)).min()),
        "rms_error": float(np.sqrt(np.mean((stacked[-1] - target(x)) ** 2))),
    }


def _figure(x: np.ndarray, numbers: Numbers) -> Figure:
    figure = new_figure(PAGE, 2.3)
    *panels, last = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
    shades = {"standard": "standard ResNet", "invertible": "invertible ResNet"}
    for index, (axes, (name, title)) in enumerate(zip(panels, shades.items(), strict=True)):
        paths = np.array(numbers[name]["paths"])
        colours = _colours(len(x))
        for path, colour in zip(paths.T, colours, strict=True):
            axes.plot(path, color=colour, linewidth=0.7)
        letter(axes, index, title)
        axes.set(xlabel="block $t$", xlim=(0, len(paths) - 1), xticks=range(0, len(paths), 2))
    panels[0].set_ylabel("activation $x_t$")
    reach = max(np.abs(numbers[name]["paths"]).max() for name in shades)
    for axes in panels:
        axes.set_ylim(-1.05 * reach, 1.05 * reach)
    last.plot(x, numbers["target"], color=BLACK, linestyle=":", label="target")
    for name, colour, dashes in (("standard", RED, "--"), ("invertible", BLUE, "-")):
        last.plot(x, numbers[name]["paths"][-1], color=colour, linestyle=dashes, label=name)
    letter(last, 2, "the maps learned")
    last.set(xlabel="input $x_0$", ylabel="output $x_T$")
    last.legend(loc="upper left")
    return figure


def _colours(count: int) -> np.ndarray:
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.92, count))


def _caption(numbers: Numbers) -> str:
    standard, invertible = numbers["standard"], numbers["invertible"]
    pairs = len(numbers["inputs"]) - 1
    return (
        f"Paths of {pairs + 1} inputs through {_BLOCKS} residual blocks trained on the dotted map, "
        f"without constraint and with c = {_COEFF}. Of {pairs} pairs of neighbours "
        f"{standard['crossing_pairs']} cross in the standard network, "
        f"{invertible['crossing_pairs']} in the invertible one, whose blocks have a proven bound "
        f"of {invertible['bound']:.3f}. The least slopes of the maps are "
        f"{standard['least_slope']:.2f} and {invertible['least_slope']:.2f}."
    )
