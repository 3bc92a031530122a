"""Experiments: what is read, what is changed, what is refused."""

import inspect
import json

import pytest

from tf_iresnet.models import IResNetClassifier, IResNetFlow
from tf_iresnet.models.architecture import IResNet
from training.data import AUGMENTATIONS, KNOWN_DATASETS
from training.errors import RunError
from training.experiments.catalog import experiment_names, load_experiment
from training.experiments.config import (
    Blocks,
    ClassifierModel,
    Cosine,
    FlowModel,
    Piecewise,
    Roulette,
    parse_experiment,
)

pytestmark = pytest.mark.quick

EXPERIMENTS = [
    "cifar10_classifier_c09",
    "cifar10_flow",
    "digits_flow",
    "mnist_classifier_c09",
    "mnist_classifier_vanilla",
    "mnist_flow",
    "mnist_flow_small",
    "mnist_flow_small_conditional",
    "toy_moons_flow",
]


def test_the_experiments_of_the_paper_are_there():
    assert set(EXPERIMENTS) <= set(experiment_names())


@pytest.mark.parametrize("name", experiment_names())
def test_an_experiment_survives_json_and_names_real_things(name):
    experiment = load_experiment(name)
    written = json.loads(json.dumps(experiment.model_dump(mode="json")))
    assert parse_experiment(written) == experiment
    assert experiment.dataset in KNOWN_DATASETS
    assert set(experiment.augment) <= set(AUGMENTATIONS)
    assert name.startswith(f"{experiment.dataset}_{experiment.task}")


def test_changes_of_nested_settings():
    changes = [
        "model.hidden=32",
        "model.blocks=[2, 3]",
        "optimizer.name=adamax",
        "augment=['flip']",
    ]
    experiment = load_experiment("mnist_flow", changes, steps=600, seed=7)
    assert experiment.model.hidden == 32
    assert experiment.model.blocks == (2, 3)
    assert experiment.optimizer.name == "adamax"
    assert experiment.optimizer.clipnorm == load_experiment("mnist_flow").optimizer.clipnorm
    assert experiment.augment == ("flip",)
    assert (experiment.steps, experiment.seed) == (600, 7)


def test_an_experiment_differs_from_the_one_it_extends_by_its_own_lines():
    base = load_experiment("mnist_classifier_c09").model_dump()
    twin = load_experiment("mnist_classifier_vanilla").model_dump()
    base["model"]["coeff"] = None
    base["optimizer"]["learning_rate"] = 0.005
    changed = {key for key, value in twin.items() if base[key] != value}
    assert changed == {"name", "description"}


def test_a_conditional_experiment_differs_from_its_twin_by_the_context():
    base = load_experiment("mnist_flow_small").model_dump()
    twin = load_experiment("mnist_flow_small_conditional")
    changed = {key for key, value in twin.model_dump().items() if base[key] != value}
    assert changed == {"name", "description", "context"}
    assert (twin.context, twin.data_task) == ("class", "conditional")
    assert load_experiment("mnist_flow_small").data_task == "density"
    assert load_experiment("mnist_flow_small_conditional", ["context=none"]).context is None


def test_another_kind_of_table_replaces_that_of_the_base(tmp_path, monkeypatch):
    monkeypatch.setattr("training.experiments.catalog._FOLDER", tmp_path)
    (tmp_path / "digits_flow.toml").write_text(
        "description='a'\ndataset='digits'\ntask='flow'\nsteps=5\nbatch_size=4\n"
        "[schedule]\nname='cosine'\nwarmup_steps=3\n[optimizer]\nname='sgd'\nnesterov=true\n"
    )
    (tmp_path / "digits_flow_b.toml").write_text(
        "extends='digits_flow'\n[schedule]\nname='piecewise'\nboundaries=[2]\n"
        "[optimizer]\nlearning_rate=0.5\n"
    )
    experiment = load_experiment("digits_flow_b")
    assert experiment.schedule == Piecewise(boundaries=(2,))
    assert (experiment.optimizer.nesterov, experiment.optimizer.learning_rate) == (True, 0.5)
    assert (experiment.name, experiment.batch_size) == ("digits_flow_b", 4)


def test_none_takes_a_constraint_away():
    assert load_experiment("mnist_flow", ["model.coeff=none"]).model.coeff is None
    assert load_experiment("mnist_flow", ["optimizer.clipnorm=none"]).optimizer.clipnorm is None


def test_a_change_inside_an_estimator_keeps_the_rest_of_it():
    before = load_experiment("mnist_flow").model.eval_log_det
    after = load_experiment("mnist_flow", ["model.eval_log_det.exact_terms=3"]).model.eval_log_det
    assert isinstance(before, Roulette)
    assert after == before.model_copy(update={"exact_terms": 3})


def test_another_kind_of_schedule_starts_from_its_own_defaults():
    changes = ["schedule.name=piecewise", "schedule.boundaries=[3, 5]"]
    schedule = load_experiment("digits_flow", changes).schedule
    assert schedule == Piecewise(boundaries=(3, 5))
    assert isinstance(load_experiment("digits_flow").schedule, Cosine)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.hiden=3", ["model.hiden", "did you mean 'hidden'"]),
        ("model.hidden=-3", ["model.hidden=-3", "at least 1"]),
        ("model.hidden=[3, -1]", ["setting model.hidden.1=-1"]),
        ("model.blocks=[]", ["model.blocks"]),
        ("model.coeff=1.0", ["model.coeff=1.0", "above 0 and below 1, or none"]),
        ("model.branch=dense", ["model.branch='dense'", "'densenet'"]),
        ("context=label", ["context='label'", "'class'"]),
        ("model.log_det.terms=3", ["model.log_det.terms"]),
        ("model.x.y=3", ["model.x"]),
        ("optimizer.learning_rate=nan", ["optimizer.learning_rate=nan"]),
        ("optimizer.name=lion", ["optimizer.name='lion'", "'adam'"]),
        ("schedule.name=step", ["schedule", "'piecewise'"]),
        ("schedule.name=piecewise", ["schedule.boundaries", "missing"]),
        ("schedule.warmup_steps=20000", ["warmup_steps=20000", "steps=20000"]),
        ("steps.more=3", ["steps", "single value"]),
        ("steps=0", ["steps=0"]),
        ("task=classifier", ["another experiment"]),
        ("model.hidden", ["model.hidden=32"]),
        ("=3", ["model.hidden=32"]),
        ("optimizer.accumulate=30000", ["accumulate=30000 makes no update", "lower it"]),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(change, words):
    with pytest.raises(RunError) as caught:
        load_experiment("mnist_flow", [change])
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_boundaries_increase():
    changes = ["schedule.name=piecewise", "schedule.boundaries=[5, 5]"]
    with pytest.raises(RunError, match=r"schedule\.boundaries=\[5, 5\] .* steps that increase"):
        load_experiment("digits_flow", changes)


@pytest.mark.parametrize(
    ("steps", "warmup"), [(1, 0), (20, 1), (100, 7), (101, 100), (1300, 100), (9000, 100)]
)
def test_a_warm_up_gives_way_to_fewer_steps(steps, warmup, capsys):
    """By hand: the file has 100 of 1,300 steps."""
    schedule = load_experiment("digits_flow", steps=steps).schedule
    assert schedule == Cosine(warmup_steps=warmup)
    assert load_experiment("digits_flow", [f"steps={steps}"]).schedule == schedule
    said = capsys.readouterr().err
    remark = f"schedule.warmup_steps is {warmup}, since 100 would leave nothing of steps={steps}"
    assert said == ("" if warmup == 100 else 2 * f"warning: {remark}\n")


def test_a_warm_up_that_was_asked_for_does_not_give_way():
    with pytest.raises(RunError, match="warmup_steps=100 leaves nothing of steps=20"):
        load_experiment("digits_flow", ["schedule.warmup_steps=100"], steps=20)


def test_drops_that_never_come_are_told(capsys):
    changes = ["schedule.name=piecewise", "schedule.boundaries=[10, 30]"]
    load_experiment("digits_flow", changes, steps=31)
    assert capsys.readouterr().err == ""
    load_experiment("digits_flow", changes, steps=30)
    assert "drops 1 of 2 times" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps = ", ["digits_flow.toml cannot be read", "Invalid value"]),
        ("extends = 'none'", ["none.toml cannot be read"]),
        ("extends = 'digits_flow_b'\n[model]\nhiden = 3", ["'digits_flow'", "model.hiden"]),
        ("extends = 'digits_flow_b'\nsteps = 3", ["'digits_flow'", "warmup_steps=3"]),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, monkeypatch, text, words):
    monkeypatch.setattr("training.experiments.catalog._FOLDER", tmp_path)
    (tmp_path / "digits_flow.toml").write_text(text)
    (tmp_path / "digits_flow_b.toml").write_text(
        "description='a'\ndataset='digits'\ntask='flow'\nsteps=5\nbatch_size=4\n"
        "[schedule]\nname='cosine'\nwarmup_steps=3\n"
    )
    with pytest.raises(RunError) as caught:
        load_experiment("digits_flow")
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_an_unknown_experiment_is_told_its_neighbours():
    with pytest.raises(RunError, match=r"'mnist_flw' is unknown; did you mean mnist_flow"):
        load_experiment("mnist_flw")
    with pytest.raises(RunError, match=r"known are .*digits_flow"):
        load_experiment("something else")


@pytest.mark.parametrize(
    ("kind", "settings"), [(IResNetFlow, FlowModel), (IResNetClassifier, ClassifierModel)]
)
def test_experiments_have_every_option_with_the_library_s_default(kind, settings):
    apart = {"solver", "log_det"}  # an inverse's tolerance is no setting; estimators are tables
    assert set(Blocks.model_fields) - {"architecture"} == set(IResNet.names()) - apart
    shown = inspect.signature(kind.__init__).parameters
    for name in set(IResNet.names()) - apart:
        assert settings.model_fields[name].default == shown[name].default, name
