"""Figures from tiny runs; the numbers in them against independent computation."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.library.eager import eagerly
from tests.training.commands import invoke, refused
from tests.training.reports.synthetic_results import write_run
from tests.training.tiny_runs import TINY
from tf_iresnet.certificate import residual_blocks
from training.experiments.catalog import load_experiment
from training.loop.train import train
from training.measures.finished import open_finished
from training.measures.inputs import batches_with_index
from training.measures.reconstruct import round_trips
from training.reports.figures import KINDS, reconstructions, series_terms, trajectories
from training.reports.figures.images import rows_figure
from training.reports.figures.write import write_figure

CLASSIFIER = (
    "dataset=digits",
    "augment=[]",
    "model.blocks=[1]",
    "model.hidden=[4]",
    "batch_size=8",
    "interval=2",
    "validation_images=20",
    "schedule.warmup_steps=0",
    "eval_batch_size=50",
)
TOY = (*TINY, "eval_batch_size=5000", "model.hidden=8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of tiny runs by name."""
    place = tmp_path_factory.mktemp("runs")
    for name, changes in (
        ("digits_flow", TINY),
        ("toy_moons_flow", TOY),
        ("mnist_classifier_c09", CLASSIFIER),
        ("mnist_classifier_vanilla", CLASSIFIER),
    ):
        with eagerly():
            train(load_experiment(name, changes, steps=2), place / name, verbose=0)
    return place


def draw(name, out, *runs, **options):
    """Draws a figure; gives the numbers that are written beside it."""
    options = {"results": out, **options}
    write_figure(name, out / "f.png", runs=runs, **options)
    picture = tf.io.decode_png((out / "f.png").read_bytes()).numpy()
    assert picture.shape[1] > 900  # a column at 300 dots per inch
    assert np.ptp(picture[..., :3]) > 100
    content = json.loads((out / "f.json").read_text())
    assert content["figure"] == name
    assert content["caption"]
    assert str(out) not in json.dumps(content)
    assert [entry["experiment"] for entry in content["runs"]] == [run.name for run in runs]
    return content["numbers"]


@pytest.mark.soak
def test_paths_cross_only_without_the_constraint(tmp_path, monkeypatch):
    monkeypatch.setattr(trajectories, "_STEPS", 300)
    monkeypatch.setattr(trajectories, "_BLOCKS", 5)
    numbers = draw("1", tmp_path, pdf=True)
    assert (tmp_path / "f.pdf").read_bytes()[:4] == b"%PDF"
    standard, invertible = (np.array(numbers[name]["paths"]) for name in ("standard", "invertible"))
    for paths in (standard, invertible):
        assert paths.shape == (6, len(numbers["inputs"]))
        np.testing.assert_allclose(paths[0], numbers["inputs"])
    assert (np.diff(invertible, axis=1) > 0).all()
    assert numbers["invertible"]["crossing_pairs"] == 0
    # Order is lost: some pair of paths, not only of neighbours, changes sides.
    changes = np.sign(standard[:, :, None] - standard[:, None, :]) != np.sign(
        standard[0, :, None] - standard[0, None, :]
    )
    assert changes.any()
    crossing = [changes[:, i, i + 1].any() for i in range(standard.shape[1] - 1)]
    assert numbers["standard"]["crossing_pairs"] == sum(crossing) > 0
    slopes = np.gradient(standard[-1], standard[0])
    assert numbers["standard"]["least_slope"] < slopes.max()
    assert numbers["standard"]["least_slope"] < 0 < numbers["invertible"]["least_slope"]
    # A block moves distances by a factor of at least 1 - L.
    least = (1 - numbers["invertible"]["bound"]) ** 5
    assert numbers["invertible"]["least_slope"] >= least


def strengthen(block):
    """Makes a branch close to a multiple of -1; that of random kernels needs a term or two."""
    rng = np.random.default_rng(0)
    for layer, sign in zip(block.spectral_layers(), (1, 1, -1), strict=True):
        kernel = rng.normal(0, 0.1, layer.kernel.shape)
        middle = kernel[kernel.shape[0] // 2, kernel.shape[1] // 2]
        middle += sign * 2 * np.eye(*middle.shape)
        layer.kernel.assign(kernel)
    block.converge_spectral_state()


@pytest.mark.soak
def test_bias_against_dense_jacobians_and_eigenvalues(runs, tmp_path, monkeypatch):
    finished = open_finished(runs / "digits_flow")
    (_, block), *_ = residual_blocks(finished.model.flow)
    strengthen(block)
    monkeypatch.setattr(series_terms.Request, "flow", lambda self: finished)
    monkeypatch.setattr(series_terms, "_TERMS", (1, 2, 6))
    monkeypatch.setattr(series_terms, "_EXACT_TERMS", (1,))
    monkeypatch.setattr(series_terms, "_DRAWS", 12)
    monkeypatch.setattr(series_terms, "_COPIES", 16)
    numbers = draw("4", tmp_path, runs / "digits_flow", limit=2)
    assert numbers["examples"] == len(numbers["exact"]) == 2
    # The whole flow's Jacobian, and that of its only branch at the block's input.
    met = {}
    forward = type(block).forward
    monkeypatch.setattr(
        block,
        "forward",
        lambda x, **options: met.setdefault("y", forward(block, met.setdefault("x", x), **options)),
    )
    _, (x, *_) = next(batches_with_index(finished, "test", 2, 2))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        z = finished.model.flow.forward(x)
    whole = tape.batch_jacobian(z, x, experimental_use_pfor=False).numpy().astype(np.float64)
    truth = np.linalg.slogdet(whole.reshape(2, 64, 64))[1]
    np.testing.assert_allclose(numbers["exact"], truth, rtol=1e-4)
    assert numbers["difference_of_exact_and_slogdet"] < 1e-3
    branch = tape.batch_jacobian(met["y"], met["x"], experimental_use_pfor=False).numpy()
    eigenvalues = np.linalg.eigvals(branch.reshape(2, 64, 64).astype(np.float64)) - 1.0
    assert numbers["largest_spectral_radius"] == pytest.approx(np.abs(eigenvalues).max(), rel=1e-3)
    for n, bias, entry in zip(
        (1, 2, 6), numbers["bias_by_traces"], numbers["power_series"], strict=True
    ):
        left_out = sum((-1) ** (k + 1) * eigenvalues**k / k for k in range(1, n + 1)) - np.log(
            1 + eigenvalues
        )
        assert bias == pytest.approx(left_out.sum(axis=1).real.mean(), abs=2e-4)
        assert abs(entry["bias"] - bias) < 5 * entry["standard_error"]
    assert abs(numbers["bias_by_traces"][0]) > 1e-2  # there is a bias to be seen
    (roulette,) = numbers["russian_roulette"]
    assert abs(roulette["bias"]) < 5 * roulette["standard_error"]
    # Hutchinson's variance with Rademacher probes for one term: 2 |off-diagonal of (J + J^T)/2|^2.
    jacobian = branch.reshape(2, 64, 64) - np.eye(64)
    symmetric = (jacobian + jacobian.transpose(0, 2, 1)) / 2
    off = symmetric * (1 - np.eye(64))
    deviation = np.sqrt(2 * np.square(off).sum(axis=(1, 2)).mean())
    found = numbers["power_series"][0]["standard_deviation"]
    assert found == pytest.approx(deviation, rel=0.25)


def test_densities_of_the_plane(runs, tmp_path):
    folder = runs / "toy_moons_flow"
    numbers = draw("2", tmp_path, folder, limit=50)
    entry = numbers["toy_moons_flow"]
    assert entry["integral"] == pytest.approx(1.0, abs=0.2)  # hardly trained, some lies outside
    finished = open_finished(folder)
    x = finished.dataset.arrays("test").x
    log_prob = finished.model.log_prob(x, seed=0).numpy()
    assert entry["log_prob"] == pytest.approx(log_prob.mean(), abs=0.05)
    error = log_prob.std(ddof=1) / np.sqrt(len(x))
    assert entry["standard_error"] == pytest.approx(error, rel=0.1)


# `test_command_line` runs such models in graphs.
@pytest.mark.usefixtures("eager")
def test_reconstructions_with_and_without_the_constraint(runs, tmp_path):
    names = ("mnist_classifier_c09", "mnist_classifier_vanilla")
    numbers = draw("3", tmp_path, *(runs / name for name in names), limit=20)
    assert [numbers[name]["coeff"] for name in names] == [0.9, None]
    trips = round_trips(open_finished(runs / names[0]), 20)
    assert numbers[names[0]]["images"] == len(trips.errors) == 20
    assert numbers[names[0]]["largest_error"] == pytest.approx(
        np.abs(trips.reconstructions - trips.images).max(axis=(1, 2, 3)).max(), rel=0.5
    )
    assert numbers[names[0]]["largest_error"] < 1e-4
    assert numbers[names[0]]["not_converged"] == 0


def test_the_rows_of_reconstructions_say_what_comes_back():
    assert reconstructions._title(0.9, 5.1e-6) == "$c = 0.9$\nerror ≤ 5.1e-06"
    assert reconstructions._title(None, np.inf) == "no constraint\ndiverges"
    assert reconstructions._title(None, np.nan) == "no constraint\ndiverges"


def test_errors_fall_with_the_solver_s_steps(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("training.reports.figures.solver_steps._STEPS", (1, 4, 40))
    numbers = draw("solver_steps", tmp_path, runs / "mnist_classifier_c09", limit=5)
    (run,) = numbers["runs"]
    first, second, last = run["errors"]
    # The first evaluation is at the start, whose error is |g(x)|; each other one takes a factor L.
    assert second <= 0.73**3 * first + 1e-6
    assert last < 1e-5 < first


def test_pictures_of_a_flow_of_images(runs, tmp_path):
    folder = runs / "digits_flow"
    numbers = draw("5", tmp_path, folder, limit=4)
    assert numbers["samples"] == 4
    numbers = draw("temperature", tmp_path, folder, limit=3)
    assert numbers["standard_deviations"][0] < numbers["standard_deviations"][-1]
    numbers = draw("interpolation", tmp_path, folder, limit=2)
    assert numbers["largest_error_at_ends"] < 1e-4
    assert (numbers["shares"][0], numbers["shares"][-1]) == (0, 1)


def test_training_time_reads_histories(tmp_path):
    points = {"mnist_flow": [[1.0, 2.5], [2.0, 1.5]], "cifar10_flow_glow": [[3.0, 5.5]]}
    for name, values in points.items():
        folder = write_run(tmp_path, name)
        history = [
            {"step": step, "cpu_seconds": seconds, "val_bits_per_dim": bits}
            for step, (seconds, bits) in enumerate(values, 1)
        ]
        (folder / "history.json").write_text(json.dumps(history))
    write_run(tmp_path, "mnist_classifier_c09")
    small = write_run(tmp_path, "mnist_flow_small")  # not of table 4
    (small / "history.json").write_text(
        '[{"step": 1, "cpu_seconds": 1.0, "val_bits_per_dim": 9.0}]'
    )
    half = write_run(tmp_path / "half", "mnist_flow")  # of the same experiment, yet no curve
    (half / "history.json").write_text('[{"step": 1, "cpu_seconds": 1.0, "val_bits_per_dim": 9.0}]')
    numbers = draw("training_time", tmp_path)
    assert numbers == {
        "mnist": {"flow": points["mnist_flow"]},
        "cifar10": {"flow_glow": points["cifar10_flow_glow"]},
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("6", "--out", "f.png"), f"figure '6' does not exist; give one of {', '.join(KINDS)}"),
        (("1", "--out", "f.svg"), "name a .png file"),
        (("3", "--out", "f.png"), "from 0 --run; give mnist_classifier_c09, then"),
        (("1", "--out", "f.png", "--run", "x"), "from 1 --run; give no run"),
        (("1", "--out", "f.png", "--seed", -1), "--seed -1"),
        (("5", "--out", "f.png", "--run", "x", "--limit", 0), "--limit 0"),
        (("5", "--out", "f.png", "--run", "x"), "'x' is no run's folder"),
        (("training_time", "--out", "f.png", "--results", "x"), "--results 'x' is no folder"),
        (("training_time", "--out", "f.png", "--results", "."), "holds no flow with its history"),
    ],
)
def test_refusals(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused("figure", *words)
    assert not list(tmp_path.iterdir())


def test_refusals_of_runs(runs, tmp_path):
    out = ("--out", tmp_path / "f.png")
    classifier, toy = runs / "mnist_classifier_c09", runs / "toy_moons_flow"
    digits = runs / "digits_flow"
    for words, message in (
        (("5", "--run", classifier), "is no unconditional flow of images"),
        (("temperature", "--run", toy), "is no unconditional flow of images"),
        (("2", "--run", digits), "give flows of the same points in the plane"),
        (("3", "--run", toy, "--run", digits), "are of different images"),
    ):
        assert message in refused("figure", *words, *out)
    assert not list(tmp_path.iterdir())


def test_help_says_what_a_figure_needs():
    text = " ".join(invoke("figure", "--help").stdout.split())
    assert "--run DIR" in text
    for name, kind in KINDS.items():
        assert f"{name}: {kind.runs}" in text


def test_rows_without_labels_stand_in_the_middle():
    figure = rows_figure([np.zeros((8, 4, 4, 1))] * 8, [""] * 8, 4.0)
    figure.draw_without_rendering()
    for axes in figure.axes:
        place = axes.get_position()
        assert place.x0 == pytest.approx(1 - place.x1, abs=1e-3)
