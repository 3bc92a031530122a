"""The paper's figures and a few more, by name, and the runs that each is drawn from."""

from typing import NamedTuple


class Kind(NamedTuple):
    """A figure: its module in this package, the runs it is drawn from, and how many of them."""

    module: str
    runs: str
    least: int
    most: int | None


KINDS = {
    "1": Kind("trajectories", "no run; it trains two small networks", 0, 0),
    "2": Kind("toy_density", "toy_moons_flow, then toy_moons_flow_glow", 1, 2),
    "3": Kind("reconstructions", "mnist_classifier_c09, then mnist_classifier_vanilla", 2, 2),
    "4": Kind("series_terms", "a flow such as digits_flow", 1, 1),
    "5": Kind("samples", "cifar10_flow", 1, 1),
    "training_time": Kind("training_time", "no run; it reads --results", 0, 0),
    "solver_steps": Kind("solver_steps", "classifiers or flows that differ in c", 1, None),
    "interpolation": Kind("interpolation", "a flow of images", 1, 1),
    "temperature": Kind("temperature", "a flow of images", 1, 1),
}


def describe() -> str:
    """Says which runs each figure is drawn from, in a line for each."""
    return "\n".join(f"{name}: {kind.runs}" for name, kind in KINDS.items())
