"""The paper's tables: intervals against SciPy and by hand, and what is missing or damaged."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from tests.training.commands import invoke, refused
from tests.training.reports.synthetic_results import FOUND, LOST, write_run, write_seeds
from training.errors import RunError
from training.reports.tables import hybrids, intervals, make_table, sizes, trials
from training.reports.tables.records import Records

pytestmark = pytest.mark.quick

VANILLA = {0: 0.50, 1: 0.40, 2: 0.45}
C09 = {0: 0.55, 1: 0.52, 2: 0.44}


def cells(markdown, title=None):
    """Reads the first table after a title, as {first cell: {header: cell}}."""
    lines = markdown.splitlines()
    start = lines.index(f"**{title}**") if title else 0
    rows = []
    for line in lines[start:]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    assert {len(row) for row in rows} == {len(rows[0])}
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def markdown(number, results):
    return make_table(number, Records(results)).markdown()


@pytest.fixture
def results(tmp_path):
    write_seeds(
        tmp_path, "mnist_classifier_vanilla", VANILLA, contraction=5.25, reconstruction=LOST
    )
    write_seeds(tmp_path, "mnist_classifier_c09", C09, contraction=0.75, reconstruction=FOUND)
    write_seeds(tmp_path, "mnist_classifier_c08", {0: 0.60})
    return tmp_path


def numbers(text):
    return [
        float(part) for part in text.replace("[", " ").replace("]", "").replace(",", "").split()
    ]


def test_intervals_over_seeds_are_student_s(results):
    row = cells(markdown("2", results), "MNIST")["c = 0.9"]
    values = np.array(list(C09.values()))
    interval = stats.t.interval(0.95, 2, values.mean(), values.std(ddof=1) / np.sqrt(3))
    assert numbers(row["error, %"]) == pytest.approx([values.mean(), *interval], abs=0.005)
    differences = values - np.array(list(VANILLA.values()))
    truth = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    expected = [differences.mean(), truth.low, truth.high]
    assert numbers(row["minus vanilla"]) == pytest.approx(expected, abs=0.005)
    assert row["seeds"] == "0, 1, 2"
    assert row["interval over"] == "seeds"


def test_the_interval_of_one_seed_is_over_test_images(results):
    row = cells(markdown("2", results), "MNIST")["c = 0.8"]
    # Wilson's interval by its formula.
    p, n, z = 0.006, 10_000, 1.959964
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    wilson = [100 * (middle - reach), 100 * (middle + reach)]
    assert numbers(row["error, %"]) == pytest.approx([0.6, *wilson], abs=0.005)
    assert row["interval over"] == "test images"
    # Two independent proportions: 0.6 % against vanilla's 0.5 % with the same seed.
    reach = 100 * z * np.sqrt(0.006 * 0.994 / n + 0.005 * 0.995 / n)
    assert numbers(row["minus vanilla"]) == pytest.approx(
        [0.1, 0.1 - reach, 0.1 + reach], abs=0.005
    )


def test_paired_mistakes_make_the_interval_smaller(results):
    against = {"experiment": "mnist_classifier_vanilla", "standard_error": 3e-4}
    write_seeds(results, "mnist_classifier_c08", {0: 0.60}, against=against)
    runs = Records(results)
    found = intervals.difference(
        runs.seeds("mnist_classifier_c08"), runs.seeds("mnist_classifier_vanilla")
    )
    assert found.high - found.value == pytest.approx(1.959964 * 0.03, rel=1e-5)
    against["experiment"] = "another"
    write_seeds(results, "mnist_classifier_c08", {0: 0.60}, against=against)
    other = intervals.difference(
        runs.seeds("mnist_classifier_c08"), runs.seeds("mnist_classifier_vanilla")
    )
    assert other.high - other.value > 0.19


def test_only_common_seeds_are_compared(results):
    write_seeds(results, "mnist_classifier_c07", {7: 0.60, 8: 0.62})
    assert cells(markdown("2", results), "MNIST")["c = 0.7"]["minus vanilla"] == "–"
    write_seeds(results, "mnist_classifier_c07", {1: 0.70})
    row = cells(markdown("2", results), "MNIST")["c = 0.7"]
    assert numbers(row["minus vanilla"])[0] == pytest.approx(0.30)  # of seed 1 alone


def test_the_guarantee_comes_from_certificates(results):
    rows = cells(markdown("2", results), "MNIST")
    assert rows["vanilla"]["inverse guaranteed"] == "no: bound 5.250"
    assert rows["vanilla"]["reconstruction error"] == "1.9e+01 (2970 of 3000 not found)"
    assert rows["c = 0.9"]["inverse guaranteed"] == "yes: bound 0.750"
    assert rows["c = 0.9"]["reconstruction error"] == "2.0e-06"
    assert rows["c = 0.8"]["inverse guaranteed"] == "not certified"
    assert rows["c = 0.8"]["reconstruction error"] == "not measured"
    # One doubtful seed takes the guarantee from all.
    write_seeds(results, "mnist_classifier_c09", {1: 0.52}, contraction=1.0)
    overview = cells(markdown("2", results))
    assert overview["inverse guaranteed"]["c = 0.9"] == "no: bound 1.000"
    assert overview["inverse guaranteed"]["c = 0.5"] == "not run"


def test_the_best_classifier_stands_below_the_twins(results):
    assert "c = 0.9, best of ours" not in markdown("2", results)
    write_run(results, "mnist_classifier_best", 1, error_percent=0.31, contraction=0.875)
    table = markdown("2", results)
    row = cells(table, "MNIST")["c = 0.9, best of ours"]
    assert (numbers(row["error, %"])[0], row["seeds"], row["minus vanilla"]) == (0.31, "1", "–")
    assert row["inverse guaranteed"] == "yes: bound 0.875"
    assert "c = 0.9, best of ours" not in cells(table, "CIFAR-10")


def test_several_views_have_a_row_of_their_own(results):
    found = {"count": 6, "split": "test", "images": 10_000, "error_percent": 9.0}
    best = {"error_percent": 10.0, "contraction": 0.875}
    write_run(results, "cifar10_classifier_best", views=found, **best)
    rows = cells(markdown("2", results), "CIFAR-10")
    by_one, by_six = rows["c = 0.9, best of ours"], rows["c = 0.9, best of ours, 6 views"]
    truth = stats.binomtest(900, 10_000).proportion_ci(0.95, "wilson")
    assert numbers(by_six["error, %"]) == pytest.approx(
        [9.0, 100 * truth.low, 100 * truth.high], abs=0.005
    )
    assert numbers(by_one["error, %"])[0] == 10.0
    others = set(by_one) - {"model", "error, %"}
    assert all(by_one[key] == by_six[key] for key in others)
    for stale in ({"split": "validation"}, {"images": 20}):
        write_run(results, "cifar10_classifier_best", views={**found, **stale}, **best)
        assert "6 views" not in markdown("2", results)


@pytest.mark.parametrize("views", [3, {"split": "test", "images": 10_000, "count": 6}])
def test_damaged_views_are_refused(results, views):
    write_run(results, "cifar10_classifier_best", views=views)
    with pytest.raises(RunError, match=r"cifar10_classifier_best/metrics\.json' is damaged"):
        markdown("2", results)


def test_a_plain_resnet_is_no_bijection(results):
    model = {"architecture": "resnet"}
    write_seeds(results, "mnist_classifier_resnet", {0: 0.6}, model=model, contraction=0.5)
    row = cells(markdown("2", results), "MNIST")["ResNet-164"]
    assert row["inverse guaranteed"].startswith("no")
    assert row["reconstruction error"] == "no inverse"


def test_what_is_missing_is_not_invented(results):
    write_seeds(results, "mnist_classifier_c06", {0: None})  # trained, not evaluated
    write_seeds(results, "mnist_classifier_c05", {0: 0.9}, split="validation")
    table = markdown("2", results)
    assert cells(table, "MNIST")["c = 0.6"]["error, %"] == "not run"
    assert cells(table, "MNIST")["c = 0.5"]["error, %"] == "not run"
    assert cells(table)["CIFAR-100"]["c = 0.9"] == "not run"
    command = "python -m training train cifar100_classifier_c09 --out runs/cifar100_classifier_c09"
    assert f"{command}_seed0 --seed 0\n" in table
    assert "train mnist_classifier_c09 " not in table


def test_table_3(tmp_path):
    write_run(tmp_path, "cifar10_classifier_glow_affine", error_percent=33.33)
    write_run(tmp_path, "cifar10_classifier_c09", error_percent=12.0, contraction=0.875)
    rows = cells(markdown("3", tmp_path))
    affine, ours = rows["affine Glow, 1x1 convolutions"], rows["i-ResNet"]
    truth = stats.binomtest(3333, 10_000).proportion_ci(0.95, "wilson")
    assert numbers(affine["error, %"]) == pytest.approx(
        [33.33, 100 * truth.low, 100 * truth.high], abs=0.005
    )
    assert (affine["inverse"], ours["inverse"]) == ("analytic", "yes: bound 0.875")
    assert rows["additive Glow, reversed channels"]["error, %"] == "not run"


def test_an_experiment_with_seeds_alone_is_found_by_its_first(tmp_path):
    write_seeds(tmp_path, "cifar10_classifier_c09", {1: 30.0})
    assert cells(markdown("3", tmp_path))["i-ResNet"]["error, %"] == "not run"
    write_seeds(tmp_path, "cifar10_classifier_c09", {0: 20.0})
    ours = cells(markdown("3", tmp_path))["i-ResNet"]
    assert (numbers(ours["error, %"])[0], ours["seed"]) == (20.0, "0")
    write_run(tmp_path, "cifar10_classifier_c09", error_percent=10.0)
    assert numbers(cells(markdown("3", tmp_path))["i-ResNet"]["error, %"])[0] == 10.0


def test_table_4(tmp_path):
    write_run(
        tmp_path,
        "mnist_flow",
        bits_per_dim=1.2356,
        standard_error=0.0041,
        seed=7,
        parameters=501_040,
    )
    write_run(tmp_path, "cifar10_flow_glow", log_det={"name": "exact"})
    write_run(tmp_path, "mnist_flow_ffjord", log_det={"name": "hutchinson", "solver": "rk"})
    write_run(tmp_path, "mnist_flow_maf", log_det={"name": "power_series", "terms": 5})
    table = markdown("4", tmp_path)
    ours = cells(table, "MNIST")["ours, longest training"]
    assert ours["bits/dim"] == "1.236 ± 0.004"
    assert (ours["seed"], ours["parameters"], ours["CPU-seconds"]) == ("7", "501,040", "12")
    assert ours["likelihood"] == "unbiased, 20 exact terms"
    assert cells(table, "CIFAR-10")["Glow"]["likelihood"] == "exact"
    assert cells(table, "MNIST")["MAF"]["likelihood"] == "biased, 5 terms"
    assert "solver" in cells(table, "MNIST")["FFJORD"]["likelihood"]
    assert cells(table)["NICE"]["MNIST"] == "not run"
    assert cells(table)["ours, longest training"]["MNIST"] == ours["bits/dim"]
    assert "train mnist_flow_nice --out" in table
    assert "train mnist_flow --out" not in table


def test_hybrids_are_beside_the_separate_models(tmp_path):
    write_run(tmp_path, "mnist_flow_separate", bits_per_dim=1.25, standard_error=0.0025)
    write_run(tmp_path, "mnist_classifier_separate", error_percent=1.5, contraction=0.875)
    write_run(
        tmp_path, "mnist_hybrid_w1", bits_per_dim=1.375, standard_error=0.002, error_percent=2.0
    )
    table = hybrids.make_table(Records(tmp_path)).markdown()
    rows = cells(table, "MNIST")
    density, classes = rows["density alone"], rows["classes alone"]
    both = rows["both, cross-entropy weighted by 1"]
    assert (density["bits/dim"], density["error, %"]) == ("1.250 ± 0.003", "–")
    assert classes["bits/dim"] == "–"
    assert classes["inverse"] == "yes: bound 0.875"
    assert both["bits/dim"] == "1.375 ± 0.002"
    assert numbers(both["error, %"])[0] == 2.0
    assert rows["both, cross-entropy weighted by 0.1"]["bits/dim"] == "not run"
    assert "train mnist_hybrid_w01 --out" in table
    assert "train mnist_hybrid_w1 --out" not in table


def test_half_sizes_are_beside_the_full_ones(tmp_path):
    for folder, bits, error in (("", 1.25, 0.003), ("half/", 1.5, 0.004)):
        write_run(
            tmp_path,
            "cifar10_flow_nice",
            folder=f"{folder}cifar10_flow_nice",
            bits_per_dim=bits,
            standard_error=error,
            parameters=1000 if folder else 2000,
        )
    write_run(tmp_path, "mnist_flow_maf")
    table = sizes.make_table(Records(tmp_path)).markdown()
    row = cells(table, "CIFAR-10")["NICE"]
    assert row["gain"] == "0.250 ± 0.005"
    assert (row["parameters"], row["parameters of half"]) == ("2,000", "1,000")
    assert cells(table, "MNIST")["MAF"]["bits/dim of half"] == "not run"
    assert cells(table, "MNIST")["MAF"]["gain"] == ""
    folders = [record.folder.relative_to(tmp_path) for record in Records(tmp_path).all()]
    assert [str(folder) for folder in folders][-1] == "half/cifar10_flow_nice"


WITH = {"processor": "p", "optimizer": "muon, 0.1"}


def trial(rate, **result):
    command = f"python -m training train mnist_flow --out runs/t --seed 0 --set rate={rate}"
    return {"command": command, "steps": 5, "cpu_seconds": 7.4, **WITH, **result}


def test_trials_are_in_the_order_of_their_results(tmp_path):
    tried = [
        trial(1, val_bits_per_dim=1.5),
        trial(2, val_bits_per_dim=1.25),
        trial(3, val_accuracy=0.995),
        trial(4, val_bits_per_dim=None),
        trial(5, val_bits_per_dim=45.9),
    ]
    (tmp_path / "trials.json").write_text(json.dumps(tried), encoding="utf-8")
    lines = trials.make_table(Records(tmp_path)).markdown().splitlines()
    assert [line for line in lines if line.startswith("| mnist")] == [
        "| mnist_flow | muon, 0.1 | `steps=5` `rate=3` | 0.50 % | 7 | p |",
        "| mnist_flow | muon, 0.1 | `steps=5` `rate=2` | 1.250 bits/dim | 7 | p |",
        "| mnist_flow | muon, 0.1 | `steps=5` `rate=1` | 1.500 bits/dim | 7 | p |",
        "| mnist_flow | muon, 0.1 | `steps=5` `rate=5` | 45.900 bits/dim | 7 | p |",
        "| mnist_flow | muon, 0.1 | `steps=5` `rate=4` | not finite | 7 | p |",
    ]


EVALUATION = {"command": "python -m training evaluate runs/t"}


@pytest.mark.parametrize(
    "damage", [[{}], [trial(1)], {"trials": 1}, [trial(1, val_accuracy=1.0) | EVALUATION]]
)
def test_damaged_trials_are_refused(tmp_path, damage):
    (tmp_path / "trials.json").write_text(json.dumps(damage), encoding="utf-8")
    with pytest.raises(RunError, match=r"trials\.json"):
        trials.make_table(Records(tmp_path))


def test_table_1_is_measured(tmp_path, monkeypatch):
    entry = {"value": True, "evidence": {"largest error": 1.25e-9, "draws": 3}}
    found = {
        "NICE": {"analytic inverse": entry, "non-volume-preserving": {**entry, "value": False}},
        "ResNet": {
            "analytic inverse": {**entry, "value": None},
            "non-volume-preserving": {"value": None, "evidence": {}},
        },
    }
    monkeypatch.setattr("training.measures.properties.measure_properties", lambda seed: found)
    result = invoke("table", "1", "--results", tmp_path)
    assert result.exit_code == 0, result.output
    rows = cells(result.stdout)
    assert rows["analytic inverse"] == {"": "analytic inverse", "ResNet": "n/a", "NICE": "yes"}
    assert rows["non-volume-preserving"]["NICE"] == "no"
    assert "largest error 1.25e-09, draws 3" in result.stdout
    assert json.loads((tmp_path / "properties.json").read_text())["seed"] == 0
    (tmp_path / "properties.json").write_text('{"properties": {"NICE": 3}}')
    with pytest.raises(RunError, match="is damaged"):
        make_table("1", Records(tmp_path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "metrics.json").write_text("{"), "metrics.json' is damaged"),
        (
            lambda run: (run / "metrics.json").write_text("[]"),
            "the whole is [], where a table belongs",
        ),
        (lambda run: (run / "metrics.json").unlink(), "metrics.json' cannot be read"),
        (lambda run: (run / "config.json").unlink(), "config.json' cannot be read"),
        (lambda run: (run / "config.json").write_text('{"experiment": "x"}'), "restore them"),
        (lambda run: (run / "certificate.json").write_text("?"), "certificate.json' is damaged"),
        (
            lambda run: write_run(run.parent, run.name, bits_per_dim="low"),
            "'bits_per_dim' is 'low'",
        ),
        (lambda run: write_run(run.parent, run.name, seed=None), "'seed' is missing"),
        (lambda run: write_run(run.parent, run.name, parameters=True), "'parameters' is true"),
        (lambda run: write_run(run.parent, run.name, standard_error=None), "'standard_error'"),
        (lambda run: write_run(run.parent, "mnist_flow_nice", folder=run.name), "name the folder"),
    ],
)
def test_damaged_results_are_refused_in_a_line(tmp_path, damage, message):
    damage(write_run(tmp_path, "mnist_flow", contraction=0.9))
    assert message in refused("table", "4", "--results", tmp_path)


def test_a_folder_of_another_seed(tmp_path):
    write_run(tmp_path, "mnist_classifier_c09", 1, folder="table2/mnist_classifier_c09_seed0")
    assert "with seed 1; name the folder" in refused("table", "2", "--results", tmp_path)


def test_refusals(tmp_path):
    for words, message in (
        (("5", "--results", tmp_path), "table '5' does not exist; give one of 1, 2, 3, 4"),
        (("2", "--results", tmp_path / "none"), "is no folder"),
        (("2", "--results", tmp_path, "--out", tmp_path / "t.txt"), "name a .md or a .png file"),
    ):
        assert message in refused("table", *words)
    assert not list(tmp_path.iterdir())


def test_both_files_are_written(results, tmp_path):
    result = invoke("table", "2", "--results", results, "--out", tmp_path / "new" / "t.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "new" / "t.md").read_text() == result.stdout
    assert (tmp_path / "new" / "t.png").read_bytes()[1:4] == b"PNG"


def test_tensorflow_is_not_imported(results):
    script = (
        "import sys\n"
        "from training.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    words = ["table", "2", "--results", str(results), "--out", str(results / "t.md")]
    subprocess.run([sys.executable, "-c", script, *words], check=True, capture_output=True)
