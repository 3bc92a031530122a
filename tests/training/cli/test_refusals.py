"""Every setting of every experiment: what is refused, in whose words, from a file and by --set."""

import re
import types
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import pytest

from tests.training.commands import refused
from tf_iresnet.layers.activations import make_activation
from training.data import AUGMENTATIONS
from training.errors import RunError
from training.experiments import catalog
from training.experiments.baseline_settings import Hutchinson, MAFModel
from training.experiments.catalog import load_experiment
from training.experiments.config import (
    ClassifierExperiment,
    ClassifierModel,
    FlowExperiment,
    HybridExperiment,
    Piecewise,
    Series,
    parse_experiment,
)
from training.experiments.settings import Activation, Augmentation, Settings

pytestmark = pytest.mark.quick

NEEDED = {"description": "a", "dataset": "digits", "steps": 50, "batch_size": 4}
# What the words of the checker have in common.
FOREIGN = ("Input", "input", "valid", "should", "pydantic", "union", "constrained", "tuple", "dict")


class Leaf(NamedTuple):
    """A setting with a single value or a list, and the settings that make it one of several."""

    place: str
    annotation: Any
    around: dict[str, Any]

    @property
    def members(self):
        return [kind for kind in parts(self.annotation) if kind is not type(None)]


def parts(annotation):
    """The kinds that an annotation allows, without what is said about them."""
    if get_origin(annotation) is Annotated:
        return parts(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for member in get_args(annotation) for kind in parts(member)]
    return [annotation]


def leaves(kind, prefix="", around=None):
    around = dict(around or {})
    for tag in ("task", "architecture", "name"):
        field = kind.model_fields.get(tag)
        if field is not None and get_origin(field.annotation) is Literal and prefix + tag != "name":
            choices = get_args(field.annotation)
            if len(choices) == 1:
                around[prefix + tag] = choices[0]
    if kind is Piecewise:
        around[f"{prefix}boundaries"] = [3]
    for name, field in kind.model_fields.items():
        place = prefix + name
        members = [kind for kind in parts(field.annotation) if isinstance(kind, type)]
        tables = [kind for kind in members if issubclass(kind, Settings)]
        for table in tables:
            yield from leaves(table, f"{place}.", around)
        if not tables and place not in ("name", "task") and place not in around:
            yield Leaf(place, field.annotation, around)


LEAVES = {
    " ".join(
        [leaf.place, "of", *(word for word in leaf.around.values() if isinstance(word, str))]
    ): leaf
    for kind in (FlowExperiment, ClassifierExperiment, HybridExperiment)
    for leaf in leaves(kind)
}


def test_every_kind_of_setting_is_among_them():
    places = {leaf.place for leaf in LEAVES.values()}
    for kind, prefix in (
        (FlowExperiment, ""),
        (ClassifierModel, "model."),
        (MAFModel, "model."),
        (Hutchinson, "model.eval_log_det."),
        (Series, "model.log_det."),
        (Piecewise, "schedule."),
    ):
        tables = {"name", "task", "architecture", "boundaries", "model", "optimizer", "schedule"}
        tables |= {"log_det", "eval_log_det"}
        assert {prefix + name for name in kind.model_fields if name not in tables} <= places
    assert len(LEAVES) > 150


def wrong_values(leaf):
    """Values of another type, another word, or out of every range, and how they are named."""
    found = []
    for member in leaf.members:
        if member is bool:
            found += [("yes", "='yes'"), (1, "=1")]
        elif member is int:
            found += [("3", "='3'"), (True, "=true"), (1.5, "=1.5"), (-1, "=-1")]
        elif member is float:
            found += [("3", "='3'"), (True, "=true"), (-1, "=-1")]
        elif member is str:
            found += [(5, "=5"), (True, "=true")]
        elif get_origin(member) is Literal:
            found += [("no such word", "='no such word'"), (5, "=5")]
        else:
            assert get_origin(member) is tuple, member
            found += [({"a": 1}, '={"a": 1}'), ([-1], ".0=-1"), ([["x"]], '.0=["x"]')]
    return found


def words_of(annotation):
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [word for part in get_args(annotation) for word in words_of(part)]


def nested(around):
    settings = dict(NEEDED)
    for place, value in around.items():
        table = settings
        *names, last = place.split(".")
        for name in names:
            table = table.setdefault(name, {})
        table[last] = value
    return settings


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes an experiment's file."""
    monkeypatch.setattr(catalog, "_FOLDER", tmp_path)

    def write(settings):
        lines = [f"{key} = {toml(value)}" for key, value in settings.items()]
        (tmp_path / "mine.toml").write_text("\n".join(lines))

    return write


def message_of(changes=()):
    with pytest.raises(RunError) as caught:
        load_experiment("mine", changes)
    return str(caught.value)


@pytest.mark.parametrize("name", LEAVES)
def test_a_wrong_value_is_refused_in_a_line(name, written):
    leaf = LEAVES[name]
    plain = nested(leaf.around)
    written(plain)
    load_experiment("mine")
    for value, named in wrong_values(leaf):
        written(plain)
        by_set = message_of([f"{leaf.place}={toml(value)}"])
        written(nested({**leaf.around, leaf.place: value}))
        assert message_of() == f"experiment 'mine': {by_set}"
        before, cannot, remedy = by_set.partition(" cannot be used: give ")
        assert cannot, by_set
        assert before == f"setting {leaf.place}{named}"
        assert "\n" not in remedy
        assert all(repr(word) in remedy for word in words_of(leaf.annotation)), by_set
        assert not any(word in remedy for word in FOREIGN), by_set


@pytest.mark.parametrize("name", [name for name in LEAVES if words_of(LEAVES[name].annotation)])
def test_the_words_that_are_offered_are_taken(name):
    leaf = LEAVES[name]
    for word in words_of(leaf.annotation):
        several = [kind for kind in leaf.members if get_origin(kind) is tuple]
        around = {**leaf.around, leaf.place: [word] if several else word}
        parse_experiment({**nested(around), "name": "mine"})


@pytest.mark.parametrize("name", LEAVES)
def test_an_unknown_name_is_told_its_neighbour(name, written):
    leaf = LEAVES[name]
    *tables, last = leaf.place.split(".")
    typo = ".".join([*tables, last[:-1] + "zz"])
    written(nested(leaf.around))
    assert f"setting {typo!r} does not exist; did you mean" in message_of([f"{typo}=3"])
    written(nested({**leaf.around, typo: 3}))
    assert f"setting {typo!r} does not exist; did you mean" in message_of()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("augment=flip", "augment='flip' cannot be used: give a list of 'affine', 'crop', 'flip'"),
        ("augment=flip", "or 'cutout', such as ['flip']"),
        ("model.blocks=4", "give a list of one or more integers of at least 1, such as [4]"),
        ("model.coeff=1", "model.coeff=1 cannot be used: give a number above 0 and below 1, or no"),
        ("seed=-1", "give an integer of at least 0 and below 2147483648"),
        ("hidden=3", "setting 'hidden' does not exist; did you mean 'model.hidden'?"),
        ("optimizer.zzz=3", "there are name, learning_rate, momentum"),
        ("model=3", "model=3 cannot be used: give a table"),
        ("schedule.name=piecewise", "'schedule.boundaries' is missing; give a list of one or more"),
        ("model.architecture=glowy", "='glowy' cannot be used: give 'ffjord', 'glow', 'iresnet',"),
        ("optimizer.learning_rate=inf", "optimizer.learning_rate=inf cannot be used: give a numb"),
        ("batch_size=1979-05-27", "batch_size='1979-05-27' cannot be used: give an integer of"),
    ],
)
def test_words(change, words, tmp_path):
    message = refused("train", "digits_flow", "--out", tmp_path / "x", "--set", change)
    assert words in message
    assert not (tmp_path / "x").exists()


def test_names_are_those_of_what_is_named():
    assert get_args(Augmentation) == AUGMENTATIONS
    for name in get_args(Activation):
        make_activation(name, name="a")
    with pytest.raises(ValueError, match="activation") as caught:
        make_activation("none", name="a")
    named = re.findall(r"'(\w+)'", str(caught.value).partition(", got")[0])
    assert set(named) == set(get_args(Activation))
