"""Training: resuming, refusing, and what a run leaves behind."""

import json
import math
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.training.tiny_runs import TINY
from tf_iresnet import certify
from tf_iresnet.certificate.variance import InfiniteVarianceWarning, log_det_statistics
from training.data import DataError, load_dataset
from training.errors import RunError
from training.experiments.catalog import load_experiment
from training.loop import callbacks
from training.loop.models import build_model
from training.loop.train import repeating_command, train
from training.measures.evaluate import evaluate
from training.measures.exact_check import exact_check
from training.measures.finished import open_finished
from training.measures.inputs import inputs_with_index
from training.measures.reconstruct import write_reconstructions
from training.measures.sample import draw_samples, write_samples
from training.reports.model_card import model_card
from training.runs.checkpoints import Checkpoints
from training.runs.run import Run

pytestmark = pytest.mark.usefixtures("eager_module")


def tiny(*changes, name="digits_flow", steps=5, seed=None):
    small = ("model.kernel_sizes=[1, 1]", "model.log_det.exact_terms=1")
    return load_experiment(name, [*TINY, *small, *changes], steps=steps, seed=seed)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of five steps, with checkpoints after two, four and five."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(tiny(), folder, command="a command", verbose=0)
    return folder


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    """That run opened from a copy, into which what measures it may write."""
    return open_finished(shutil.copytree(run, tmp_path_factory.mktemp("opened") / "digits"))


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def weights(folder, step):
    reader = tf.train.load_checkpoint(str(folder / "checkpoints" / f"step-{step}"))
    kinds = ("model/", "optimizer/", "metrics/", "counters/")
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith(kinds)
    }


def history(folder):
    records = json.loads((folder / "history.json").read_text())
    return [{k: v for k, v in record.items() if k != "cpu_seconds"} for record in records]


def damage(folder, step, suffix="data-00000-of-00001"):
    path = folder / "checkpoints" / f"step-{step}.{suffix}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_a_run_s_folder(run):
    assert [record["step"] for record in history(run)] == [2, 4, 5]
    assert all({"loss", "val_loss", "learning_rate"} <= record.keys() for record in history(run))
    assert history(run)[-1]["learning_rate"] == 0.0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 5
    assert metrics["cpu_seconds"] > 0
    assert metrics["certified_lipschitz"] is None
    assert metrics["command"] == "a command"
    assert metrics["validation"]["bits_per_dim"] == history(run)[-1]["val_bits_per_dim"]
    for kind in ("train", "validation"):
        (events,) = (run / "tensorboard" / kind).iterdir()
        tags = {
            v.tag for e in tf.compat.v1.train.summary_iterator(str(events)) for v in e.summary.value
        }
        assert "epoch_loss" in tags
        for name in ("learning_rate", "lipschitz_bound", "lipschitz_estimate"):
            assert (f"epoch_{name}" in tags) == (kind == "train")
    for record in history(run):
        assert 0.5 < record["lipschitz_bound"] < 1.5
        # What kernels are divided by is a bound, too: not as tight as that of a certificate.
        assert record["lipschitz_estimate"] == pytest.approx(record["lipschitz_bound"], rel=0.05)


def test_an_interrupted_run_ends_like_an_uninterrupted_one(run, tmp_path, monkeypatch):
    save, saved = Checkpoints.save, []

    def interrupted(self, step):
        if step == 4:
            raise KeyboardInterrupt
        save(self, step)
        saved.append(step)

    monkeypatch.setattr(callbacks.Checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), tmp_path, verbose=0)
    assert saved == [2]
    spent = json.loads((tmp_path / "history.json").read_text())[-1]["cpu_seconds"]
    monkeypatch.undo()
    metrics = train(tiny(), tmp_path, verbose=0)
    assert metrics["cpu_seconds"] > spent
    assert history(tmp_path) == history(run)
    ours, theirs = weights(tmp_path, 5), weights(run, 5)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_every_weight_is_saved(run):
    experiment = tiny()
    model = build_model(experiment, load_dataset(experiment.dataset).spec)
    saved = [name for name in weights(run, 5) if name.startswith("model/")]
    assert len(saved) == len(model.weights)
    assert model.average.shadows
    assert any("_kernel/" in name for name in saved)


def test_a_finished_run_says_so(run, capsys):
    before = (run / "metrics.json").read_bytes()
    train(tiny(), run, verbose=0)
    assert "is finished: 5 steps are done" in capsys.readouterr().out
    assert (run / "metrics.json").read_bytes() == before


@pytest.mark.soak  # by another optimizer, `test_muon` in every run
def test_more_steps_continue_a_run_whose_learning_rate_does_not_end(tmp_path):
    constant = "schedule.name=constant"
    changes = [change for change in TINY if not change.startswith("schedule")]
    once = load_experiment("digits_flow", [*changes, constant], steps=4)
    train(once.model_copy(update={"steps": 2}), tmp_path / "a", verbose=0)
    train(once, tmp_path / "a", verbose=0)
    train(once, tmp_path / "b", verbose=0)
    ours, theirs = weights(tmp_path / "a", 4), weights(tmp_path / "b", 4)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_the_last_three_checkpoints_are_kept(tmp_path):
    train(tiny("interval=1", steps=4), tmp_path, verbose=0)
    steps = {path.stem for path in (tmp_path / "checkpoints").glob("*.index")}
    assert steps == {"step-2", "step-3", "step-4"}


@pytest.mark.quick
def test_a_loss_that_is_no_number_ends_training(tmp_path, monkeypatch):
    changes = ("optimizer.learning_rate=1e30", "optimizer.clipnorm=none")
    with pytest.raises(RunError, match=r"is (nan|inf) at step \d.*lower optimizer\.learning_rate"):
        train(tiny(*changes), tmp_path, verbose=0)
    assert not list((tmp_path / "checkpoints").glob("*.index"))


def test_the_checkpoint_before_a_damaged_one_is_taken(copy, capsys):
    damage(copy, 5)
    finished = open_finished(copy)
    assert finished.step == 4
    captured = capsys.readouterr().err
    assert captured.startswith("warning: checkpoint ")
    assert captured.count("\n") == 1
    assert "step-5' is damaged" in captured
    metrics = evaluate(finished, limit=5)
    assert metrics["steps"] == 4
    assert "validation" not in metrics  # that was of step 5


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(copy, run):
    damage(copy, 5)
    train(tiny(), copy, verbose=0)
    assert history(copy) == history(run)
    for name, value in weights(copy, 5).items():
        np.testing.assert_array_equal(value, weights(run, 5)[name], err_msg=name)


@pytest.mark.parametrize("how", ["bits", "cut", "gone"])
def test_a_damaged_checkpoint_without_another_is_named(copy, how):
    for step in (2, 4, 5):
        path = copy / "checkpoints" / f"step-{step}.data-00000-of-00001"
        if how == "bits":
            damage(copy, step)
        elif how == "cut":
            path.write_bytes(path.read_bytes()[:100])
        else:
            path.unlink()
    with pytest.raises(RunError, match=r"step-5' is damaged .* no other can be read") as caught:
        train(tiny(), copy, verbose=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "???", 'model_checkpoint_path: "step-2"'])
def test_a_lost_list_of_checkpoints_is_made_from_the_files(copy, run, text, capsys):
    listed = copy / "checkpoints" / "checkpoint"
    listed.unlink()
    if text is not None:
        listed.write_text(text)
    damage(copy, 5)
    train(tiny(), copy, verbose=0)
    assert "continues after step 4" in capsys.readouterr().out
    assert history(copy) == history(run)
    for name, value in weights(copy, 5).items():
        np.testing.assert_array_equal(value, weights(run, 5)[name], err_msg=name)
    assert tf.train.latest_checkpoint(copy / "checkpoints").endswith("step-5")
    assert steps_in(copy / "checkpoints") == {2, 4, 5}
    assert steps_in(copy / "checkpoints" / "damaged") == {5}


def steps_in(folder):
    return {int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.index")}


def test_a_lost_list_of_checkpoints_does_not_hinder_use(copy, capsys):
    (copy / "checkpoints" / "checkpoint").unlink()
    before = sorted(copy.rglob("*"))
    assert open_finished(copy).step == 5
    assert "is lost" in capsys.readouterr().err
    assert sorted(copy.rglob("*")) == before


@pytest.mark.parametrize("lost", ["checkpoints", "checkpoints/*"])
def test_results_whose_checkpoints_are_lost_are_not_replaced(copy, lost):
    for path in list(copy.glob(lost)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="holds results, but none of the checkpoints"):
        train(tiny(), copy, verbose=0)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_checkpoints_without_a_config_are_left_alone(copy):
    (copy / "config.json").unlink()
    for use in (lambda: train(tiny(), copy, verbose=0), lambda: open_finished(copy)):
        with pytest.raises(RunError, match=r"holds checkpoints but no config\.json"):
            use()


def edit(folder, **settings):
    """Writes other settings into a run's `config.json`; two underscores stand for a dot."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in settings.items():
        *tables, last = name.split("__")
        place = config["settings"]
        for table in tables:
            place = place[table]
        place[last] = value
    path.write_text(json.dumps(config))


EDITS = [
    ("model__hidden", 6),  # other shapes
    ("model__coeff", 0.5),
    ("model__alpha", 0.01),
    ("model__eval_log_det__exact_terms", 2),
    ("optimizer__learning_rate", 0.5),
    ("seed", 1),
    ("steps", 6),
]


@pytest.mark.parametrize(("name", "value"), EDITS, ids=[name for name, _ in EDITS])
def test_weights_of_other_settings_are_refused(copy, name, value):
    edit(copy, **{name: value})
    words = rf"says {name.replace('__', '.')}={value}, but the weights in checkpoint 'step-5'"
    for use in (lambda: train(tiny(), copy, verbose=0), lambda: open_finished(copy)):
        with pytest.raises(RunError, match=words) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_run_is_refused(copy, tmp_path):
    other = build_model(tiny(seed=3), load_dataset("digits").spec)
    Checkpoints(tmp_path / "other", tiny(seed=3), other).save(5)
    for path in (tmp_path / "other").glob("step-5.*"):
        shutil.copy(path, copy / "checkpoints")
    with pytest.raises(RunError, match=r"says seed=0, but .* with seed=3"):
        open_finished(copy)


def test_a_description_may_be_edited(copy):
    edit(copy, description="mine")
    assert open_finished(copy).experiment.description == "mine"


def without_settings(folder):
    """Writes a run's last checkpoint as earlier versions did, and removes the others."""
    spec = load_dataset("digits").spec
    model = build_model(Run(folder).experiment(), spec)
    kept = Checkpoints(folder / "checkpoints", Run(folder).experiment(), model)
    step = kept.restore()
    shutil.rmtree(folder / "checkpoints")
    del kept._state["settings"]
    kept._of(kept._state).write(str(folder / "checkpoints" / f"step-{step}"))


def test_checkpoints_without_settings_are_read(copy, run):
    without_settings(copy)
    ours, theirs = open_finished(copy), open_finished(run)
    assert ours.step == 5
    for mine, other in zip(ours.model.weights, theirs.model.weights, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_checkpoints_without_settings_that_do_not_fit_are_not_called_damaged(copy):
    without_settings(copy)
    edit(copy, model__hidden=6)
    with pytest.raises(RunError, match=r"is of another model than config\.json describes"):
        open_finished(copy)


def test_wrong_data_are_refused_before_any_work(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(DataError, match="'mnist' is not prepared"):
        train(tiny(name="mnist_flow"), out, data_dir=tmp_path / "none")
    with pytest.raises(DataError, match="'digit' is unknown; did you mean 'digits'"):
        train(tiny("dataset=digit"), out)
    with pytest.raises(DataError, match="limit=201 is more than the 200"):
        train(tiny("validation_images=201"), out)
    with pytest.raises(DataError, match=r"augment=\('crop',\) is for images"):
        train(tiny("augment=['crop']", name="toy_moons_flow"), out)
    with pytest.raises(RunError, match=r"no model for 'digits'.*hidden"):
        train(tiny("model.hidden=[4, 4]"), out)
    assert not out.exists()


def test_evaluation_s_numbers(finished):
    run, metrics = finished.run.folder, evaluate(finished)
    assert metrics["images"] == 300
    assert metrics["exact_terms"] == 4
    assert metrics["certified_lipschitz"] == certify(finished.model).contraction < 0.98**2 * 1.1
    assert 0 < metrics["standard_error"] < 0.1
    assert metrics["parameters"] == sum(
        math.prod(v.shape) for v in finished.model.trainable_variables
    )
    assert (
        metrics["cpu_seconds"] == json.loads((run / "history.json").read_text())[-1]["cpu_seconds"]
    )
    assert json.loads((run / "metrics.json").read_text()) == metrics
    few = evaluate(finished, split="validation", limit=7)
    assert (few["images"], few["split"]) == (7, "validation")
    few = evaluate(finished, limit=9)
    assert few["images"] == 9
    assert evaluate(open_finished(run), limit=9)["bits_per_dim"] == few["bits_per_dim"]
    # What was measured on the whole test set stays.
    assert json.loads((run / "metrics.json").read_text())["images"] == 300


def test_the_estimator_s_noise_is_that_of_its_log_determinants(finished):
    """By draws of its own: the variance of 64 images, from 16 draws, is good to a tenth or so."""
    found = evaluate(finished, limit=64)["estimator"]
    _, (x,) = next(inputs_with_index(finished, "test", 64, 64))
    estimator = finished.model.eval_log_det
    with pytest.warns(InfiniteVarianceWarning):  # the tiny run's roulette is a bold one
        own = log_det_statistics(finished.model.flow, x, seed=5, log_det=estimator, draws=16)
    deviation = math.sqrt(np.mean(own.variance)) / (64 * math.log(2))
    assert found["standard_deviation"] == pytest.approx(deviation, rel=0.25)
    assert found["finite_variance"] is own.proven_finite is False
    assert (found["images"], found["draws"]) == (64, 8)


def test_validation_in_training_is_that_of_averaged_weights(finished, run):
    inside = history(run)[-1]["val_bits_per_dim"]
    outside = evaluate(finished, split="validation", limit=20)["bits_per_dim"]
    assert outside == pytest.approx(inside, abs=0.02)  # other probes, the same images


def test_the_batch_of_an_evaluation_does_not_matter(finished, monkeypatch):
    once = evaluate(finished, limit=20)["bits_per_dim"]
    monkeypatch.setitem(finished.experiment.__dict__, "eval_batch_size", 7)
    assert evaluate(finished, limit=20)["bits_per_dim"] == pytest.approx(once, abs=1e-6)


def test_a_split_that_is_not_there(finished):
    with pytest.raises(DataError, match="split='tset' does not exist"):
        evaluate(finished, split="tset")
    with pytest.raises(DataError, match="limit=301"):
        evaluate(finished, limit=301)


def test_the_exact_value_lies_where_the_estimate_says(finished):
    report = exact_check(finished, images=6, draws=30)
    assert abs(report["difference"]) < 5 * report["standard_error"] + 1e-6
    assert report["estimated_bits_per_dim"] == pytest.approx(
        report["exact_bits_per_dim"] + report["difference"]
    )
    with pytest.raises(RunError, match="--draws 1 is too small"):
        exact_check(finished, images=6, draws=1)


def test_samples_are_a_function_of_seed_and_place(finished):
    many, few = draw_samples(finished, 60, seed=3), draw_samples(finished, 3, seed=3)
    assert many.shape == (60, 8, 8, 1)
    np.testing.assert_allclose(many[:3], few, atol=1e-3)
    assert not np.allclose(few, draw_samples(finished, 3, seed=4))
    spread = [draw_samples(finished, 50, temperature=t).std() for t in (0.01, 1.0)]
    assert spread[0] < spread[1]


def test_reconstructions_of_what_converges(finished, tmp_path):
    report = write_reconstructions(finished, tmp_path / "new" / "r.png")
    assert report["all_converged"]
    assert report["images"] == 300
    assert report["largest_error"] < 1e-4
    assert 0 < report["steps"]["least"] <= report["steps"]["mean"] <= report["steps"]["most"]
    assert finished.run.metrics()["reconstruction"] == report
    picture = tf.io.decode_png((tmp_path / "new" / "r.png").read_bytes()).numpy()
    assert picture.shape[0] == 3 * 60  # originals, reconstructions, differences


def test_reconstructions_of_what_does_not_converge(tmp_path):
    train(tiny("model.coeff=none", steps=1), tmp_path, verbose=0)
    finished = open_finished(tmp_path)
    for weight in finished.model.trainable_variables:
        if weight.path.endswith("kernel"):
            weight.assign(20 * weight)
    report = write_reconstructions(finished, tmp_path / "r.png")
    assert not report["all_converged"]
    assert report["not_converged"] > 250
    json.loads((tmp_path / "metrics.json").read_text())  # no NaN in it
    picture = tf.io.decode_png((tmp_path / "r.png").read_bytes()).numpy()[..., :3]
    red = (picture[..., 0] > 220) & (picture[..., 1:] < 30).all(-1)
    assert red.sum() > 1000  # frames


def test_a_toy_s_pictures_and_nats(tmp_path):
    train(tiny(name="toy_moons_flow", steps=1), tmp_path, verbose=0)
    finished = open_finished(tmp_path)
    metrics = evaluate(finished, limit=100)
    bits = -metrics["log_prob"] / (2 * math.log(2))
    assert metrics["bits_per_dim"] == pytest.approx(bits)
    write_samples(finished, tmp_path / "s.png", 20)
    assert tf.io.decode_png((tmp_path / "s.png").read_bytes()).shape[1] > 1000
    with pytest.raises(RunError, match="holds no images"):
        write_reconstructions(finished, tmp_path / "r.png")


CLASSIFIER = [change for change in TINY if "eval_log_det" not in change]
CLASSIFIER += ["dataset=digits", "model.padding=1", "model.hidden=[4]", "label_smoothing=0.1"]


def test_a_classifier_from_training_to_pictures(tmp_path, monkeypatch):
    experiment = load_experiment("mnist_classifier_c09", CLASSIFIER, steps=4)
    train(experiment, tmp_path / "once", verbose=0)
    save = Checkpoints.save

    def interrupted(self, step):
        if step == 4:
            raise KeyboardInterrupt
        save(self, step)

    monkeypatch.setattr(callbacks.Checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, tmp_path / "twice", verbose=0)
    monkeypatch.undo()
    train(experiment, tmp_path / "twice", verbose=0)
    ours, theirs = (weights(tmp_path / name, 4) for name in ("once", "twice"))
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert "val_accuracy" in history(tmp_path / "once")[-1]

    finished = open_finished(tmp_path / "once")
    metrics = evaluate(finished)
    assert 0 < metrics["error_percent"] <= 100
    certificate = certify(finished.model)
    card = model_card(finished, certificate)
    assert f"{metrics['error_percent']:.2f} % error on {metrics['images']} images" in card
    assert "`classify`" in card
    assert "divided by 16" in card
    finished.add_metrics(
        {
            "reconstruction": {
                "all_converged": False,
                "not_converged": 3,
                "images": 9,
                "largest_error": 0.5,
            }
        }
    )
    assert "3 of 9 test images was not found" in model_card(finished, certificate)
    assert metrics["images"] == 300
    assert "bits_per_dim" not in metrics
    accuracy = evaluate(finished, split="validation", limit=20)["error_percent"] / 100
    assert accuracy == pytest.approx(1 - history(tmp_path / "once")[-1]["val_accuracy"])
    assert write_reconstructions(finished, tmp_path / "r.png")["largest_error"] < 1e-4
    for use in (lambda: draw_samples(finished, 3), lambda: exact_check(finished)):
        with pytest.raises(RunError, match="is a classifier"):
            use()


def test_the_command_that_repeats_a_run_names_no_folder_of_this_machine():
    command = repeating_command("digits_flow", "/some/where/a b", 5, None, ("model.blocks=[1]",))
    assert command == (
        "python -m training train digits_flow --out 'runs/a b' --steps 5 --set 'model.blocks=[1]'"
    )


def test_runs_of_a_folder_that_was_moved(copy, finished):
    moved = copy.rename(copy.parent / "moved")
    assert evaluate(open_finished(moved), limit=9)["images"] == 9
    assert Run(moved).experiment() == finished.experiment
