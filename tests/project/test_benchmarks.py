"""The comparisons run end to end, and our worker times what the public layers do."""

import dataclasses
import io
import json
import math
import sys

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import __main__ as benchmarks
from benchmarks import certificates, comparisons, solvers
from benchmarks.comparisons import (
    COMPARISONS,
    Setting,
    all_scales,
    memory_by_depth,
    with_recomputation,
)
from benchmarks.exported import exported_flow, scales
from benchmarks.measure import serve
from benchmarks.ours import Worker
from benchmarks.process import WorkerError, WorkerProcess
from benchmarks.report import markdown
from tf_iresnet.layers import InvertibleResidual, InvertibleSequential
from tf_iresnet.log_det import RussianRoulette
from tf_iresnet.norms.dense import dense_matrix

SHAPE, HIDDEN, BATCH, DRAWS = (4, 4, 2), 6, 3, [1, 3]
needs_peer = pytest.mark.skipif(
    bool(benchmarks.missing_packages()),
    reason=f"not installed: {', '.join(benchmarks.missing_packages())}",
)


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A worker whose state the tests may change."""
    rng = np.random.default_rng(0)
    widths = [SHAPE[-1], HIDDEN, HIDDEN, SHAPE[-1]]
    weights = {}
    for block in range(len(DRAWS)):
        for layer, taps in enumerate((3, 1, 3)):
            shape = (taps, taps, *widths[layer : layer + 2])
            weights[f"block{block}_kernel{layer}"] = 0.5 * rng.standard_normal(shape)
            weights[f"block{block}_bias{layer}"] = rng.standard_normal(widths[layer + 1])
            weights[f"block{block}_beta{layer}"] = np.array(0.3 + 0.2 * layer)
    path = tmp_path_factory.mktemp("worker") / "weights.npz"
    np.savez(path, **weights)
    made = Worker()
    answer = made.setup(
        str(path), threads=None, blocks=len(DRAWS), batch=BATCH, shape=SHAPE, hidden=HIDDEN
    )
    assert answer["parameters"] == sum(w.size for w in weights.values())
    return made


def public_flow(worker):
    """The worker's model, of public layers only."""
    blocks = []
    for n in DRAWS:
        roulette = RussianRoulette(exact_terms=2, probability=0.5)
        roulette.draw = lambda seed, n=n: tf.constant(n)
        options = {"normalization": "power_iteration", "power_iterations": 1, "log_det": roulette}
        blocks.append(InvertibleResidual(hidden=HIDDEN, kernel_sizes=(3, 1, 3), **options))
    flow = InvertibleSequential(blocks)
    flow.build((None, *SHAPE))
    flow.set_weights(worker.flow.get_weights())
    return flow


@pytest.mark.soak
def test_our_step_is_that_of_the_public_layers(worker, monkeypatch):
    flow, x = public_flow(worker), worker.data(BATCH)
    monkeypatch.setattr(worker, "data", lambda batch: x)
    for each in (flow, worker.flow):  # to the same vectors, which the gradient depends on
        each.converge_spectral_state(tolerance=1e-6)
    seed = [worker.seed, worker.steps + 1, 0]
    for variable in worker.optimizer.variables:  # as before the first step of all
        if variable is not worker.optimizer._learning_rate:
            variable.assign(tf.zeros_like(variable))
    with tf.GradientTape() as tape:
        z, log_det = flow.forward_and_log_det(x, seed, training=True)
        log_normal = -0.5 * tf.reduce_sum(z**2, axis=[1, 2, 3]) - 16 * math.log(2 * math.pi)
        loss = -tf.reduce_mean(log_normal + log_det)
    gradients = tape.gradient(loss, [v.value for v in flow.trainable_variables])

    before = [v.numpy() for v in worker.flow.trainable_variables]
    answer = worker.step(DRAWS)
    np.testing.assert_allclose(answer["loss"], loss, rtol=1e-5)
    assert {"seconds", "cpu_seconds", "peak_bytes"} <= set(answer)
    after = [v.numpy() for v in worker.flow.trainable_variables]
    # Adam's first step is the learning rate against the gradient's sign; its mean keeps 1/10.
    means = [v.numpy() for v in worker.optimizer._momentums]
    for old, new, mean, gradient in zip(before, after, means, gradients, strict=True):
        np.testing.assert_allclose(10 * mean, gradient, rtol=1e-3, atol=1e-4)
        clear = np.abs(gradient) > 1e-3
        np.testing.assert_allclose((old - new)[clear], 1e-3 * np.sign(gradient)[clear], rtol=0.01)


def test_one_trace_serves_all_draws(worker):
    losses = [worker.step(n)["loss"] for n in ([1, 1], [5, 2], [9, 9])]
    assert np.isfinite(losses).all()
    assert worker.train.experimental_get_tracing_count() == 1


def test_wrong_draws_are_refused(worker):
    for n in ([1], [1, 0], [1, 2, 3]):
        with pytest.raises(ValueError, match="2 integers >= 1"):
            worker.step(n)


@pytest.mark.soak
def test_errors_of_our_inverse_follow_the_tolerance(worker):
    loose, tight = worker.inverse(atol=1e-2), worker.inverse(atol=1e-6)
    assert tight["converged"]
    assert tight["max_error"] < 1e-4 < loose["max_error"]
    assert tight["evaluations"] > loose["evaluations"]


def test_workers_that_die_are_noticed():
    with pytest.raises(WorkerError, match="'setup'"):
        WorkerProcess("benchmarks.measure", threads=1)  # says nothing


def test_a_worker_outlives_its_errors(monkeypatch, capsys):
    lines = ['{"cmd": "half", "of": 4}', '{"cmd": "half"}', '{"cmd": "no"}', '{"cmd": "quit"}']
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    monkeypatch.setattr("sys.stdout", sys.stdout)  # put back what `serve` redirects
    serve({"half": lambda of: {"is": of // 2}})
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (answers[0], answers[-1]) == ({"is": 2}, {})
    assert [list(answer) for answer in answers[1:3]] == [["error"], ["error"]]


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "missing_packages", lambda: ["torch"])
    assert benchmarks.main(["--quick"]) == 1
    assert "torch" in capsys.readouterr().err


@needs_peer
def test_quick_comparisons_have_every_key():
    results = benchmarks.compare(benchmarks.QUICK, threads=1)
    more = {
        "roofline_fraction",
        "where_the_time_goes",
        "threads",
        "processor",
        "versions",
        "repeats",
    }
    assert set(results) == {*COMPARISONS, "training_step_default", *more}
    for name in COMPARISONS:
        row = results[name]
        assert row["ratio"] == pytest.approx(row["normflows"] / row["ours"])
        assert row["unit"] == ("MB" if name == "memory" else "s")
    assert 0.0 < results["roofline_fraction"]
    assert (results["threads"], results["repeats"]) == (1, 1)
    assert results["inverse"]["ours_max_error"] < 1e-4
    assert set(results["versions"]) == {"tf_iresnet", "tensorflow", "keras", "normflows", "torch"}
    assert json.loads(json.dumps(results)) == results
    assert markdown(results).count("\n| ") == 12  # two tables of four rows


def test_draws_are_those_of_the_repeat():
    setting = Setting()
    assert setting.draws(3) == setting.draws(3) != setting.draws(4)
    assert len(setting.draws(0)) == setting.blocks
    assert min(min(setting.draws(repeat)) for repeat in range(20)) == 1


def test_parts_of_a_step(worker):
    before = [v.numpy() for v in worker.flow.trainable_variables]
    for name in ("power iteration", "optimizer"):
        assert worker.part(name)["seconds"] > 0
    for variable, value in zip(worker.flow.trainable_variables, before, strict=True):
        np.testing.assert_allclose(variable, value, atol=1e-2)


@pytest.mark.soak  # three processes
def test_memory_by_depth():
    setting = Setting(blocks=1, batch=2, shape=(4, 4, 2), hidden=4, memory_terms=(5, 6))
    setting = dataclasses.replace(setting, memory_blocks=(1,))
    started = []

    def start(**changes):
        started.append(changes)
        return WorkerProcess("benchmarks.ours", 1, **{**setting.model(), **changes})

    table = memory_by_depth(start, setting)
    assert [change["recompute"] for change in started] == [False, True]
    assert set(table) == {"ours_by_depth", "ours_recomputed_by_depth"}
    assert table["ours_by_depth"]["1"]["5"] > 0


def test_recomputation_is_compared_at_the_peers_depth_and_terms():
    table = {
        "ours_by_depth": {"8": {"5": 400.0, "20": 410.0}, "16": {"5": 800.0, "20": 810.0}},
        "ours_recomputed_by_depth": {"8": {"5": 90.0, "20": 95.0}, "16": {"5": 99.0, "20": 98.0}},
    }
    row = with_recomputation({"ours": 400.0, "normflows": 450.0, "ratio": 1.125}, table)
    assert (row["ours_recomputed"], row["ratio_recomputed"]) == (90.0, 5.0)
    assert (row["ours"], row["ratio"], row["ours_by_depth"]["16"]["20"]) == (400.0, 1.125, 810.0)


def test_times_of_scales_add_up_and_the_worst_error_counts():
    fields = {"unit": "s", "ours_atol": 1e-6, "ours_max_error": 1e-4, "ours_evaluations": 9}
    rows = [
        {"ours": 1.0, "normflows": 2.0, "ratio": 2.0, **fields},
        {"ours": 3.0, "normflows": 4.0, "ratio": 4 / 3, **fields, "ours_max_error": 2e-4},
    ]
    total = all_scales(rows)
    assert (total["ours"], total["normflows"], total["ratio"]) == (4.0, 6.0, 1.5)
    assert (total["ours_max_error"], total["ours_evaluations"]) == (2e-4, 18)
    assert total["scales"] == rows


def inverses(error_of_tolerance):
    """A worker whose inverse is as wrong as this says, and the tolerances it was asked for."""
    asked = []

    def worker(command, atol, **unused):
        assert command == "inverse"
        asked.append(atol)
        error = error_of_tolerance(atol)
        fields = {"rms_error": error / 10, "evaluations": 8, "cpu_seconds": 2.0}
        return {"seconds": 1.0, "max_error": error, **fields}

    return worker, asked


def test_inverses_are_compared_at_one_error():
    ours, asked = inverses(lambda atol: 30 * atol**0.9)
    peer, _ = inverses(lambda atol: 2e-4)
    row = comparisons.inverse(ours, peer, Setting())
    assert 0.5 * 2e-4 < row["ours_max_error"] <= row["normflows_max_error"] == 2e-4
    assert row["ours_atol"] == min(asked)


def test_an_error_that_tolerances_cannot_reach_ends_the_search():
    ours, asked = inverses(lambda atol: 1e-3)
    peer, _ = inverses(lambda atol: 2e-4)
    row = comparisons.inverse(ours, peer, Setting())
    assert row["ours_max_error"] > row["normflows_max_error"]
    assert len(set(asked)) < 10


def test_the_least_gain_is_that_of_the_blocks_at_high_rates():
    groups = {
        "slow": [{"rate": 0.2, "gain": 1.3}, {"rate": 0.85, "gain": 4.0}],
        "fast": [{"rate": 0.9, "gain": 5.0}],
    }
    summary = solvers.summary(groups, rate=0.85)
    assert summary["least"] == 4.0
    assert summary["groups"]["slow"] == {"rates": [0.2, 0.85], "gains": [1.3, 4.0]}


def test_one_block_by_both_solvers():
    name, block, y = next(solvers.constructed("float64"))
    row = solvers.measure(name, block, y, "float64", [5])
    assert list(row["gain"]) == ["5"]
    assert row["gain"]["5"] == pytest.approx(row["picard"] / row["anderson"]["5"])
    assert 0.0 < row["rate"] < 0.85


def test_certificates(capsys):
    certificates.main(["--kernels", "4"])
    result = json.loads(capsys.readouterr().out)
    assert result["bound, every size"]["below_the_norm"] == 0
    assert result["bound, this size"]["percent_above_the_norm"]["largest"] < 1e-3
    assert result["five power iterations"]["below_the_norm"] > 0


@needs_peer
def test_the_peers_norms_are_estimates_of_the_same_norm():
    kernel = np.random.default_rng(0).standard_normal((3, 3, 2, 5))
    truth = np.linalg.norm(dense_matrix(kernel, certificates.SIZES), 2)
    for method in certificates.peer_methods().values():
        assert 0.8 * truth < method(kernel) < (1 + 1e-5) * truth


@pytest.fixture(scope="module")
def exported():
    """The exported flow, which takes long to build."""
    return exported_flow()


@pytest.mark.soak
def test_the_exported_flow_has_the_exported_weights(exported):
    loaded = tf.saved_model.load("saved_models/mnist_flow/1")
    x = np.random.default_rng(0).uniform(0, 256, (2, 28, 28, 1)).astype("float32")
    z = loaded.signatures["encode"](x=tf.constant(x))
    np.testing.assert_allclose(exported.encode(x), next(iter(z.values())), rtol=1e-3, atol=1e-3)


def test_the_scales_of_the_exported_flow_come_in_its_order(exported, monkeypatch):
    monkeypatch.setattr("benchmarks.exported.exported_flow", lambda: exported)
    arrays, arguments = zip(*scales(), strict=True)
    assert [setting["shape"] for setting in arguments] == [(14, 14, 4), (7, 7, 16)]
    scales_of_it = exported.flow.layers[1].scales
    for index, (weights, own) in enumerate(zip(arrays, arguments, strict=True)):
        blocks = scales_of_it[index].layers[2::2]
        for i, block in enumerate(blocks):
            kernel = block.branch.parts[1].kernel
            np.testing.assert_array_equal(weights[f"block{i}_kernel0"], kernel)
        assert own["blocks"] == len(blocks)


def test_the_tables_of_what_needs_no_peer():
    results = {
        "versions": {},
        "threads": 1,
        "repeats": 1,
        "where_the_time_goes": {"convolutions": {"seconds": 0.5, "fraction": 0.8}},
        "memory": {
            "ours": 400.0,
            "normflows": 450.0,
            "ratio": 1.125,
            "unit": "MB",
            "ours_by_terms": {"5": 400.0},
            "ours_by_depth": {"8": {"5": 400.0}},
            "ours_recomputed_by_depth": {"8": {"5": 90.0}},
            "ours_recomputed": 90.0,
            "ratio_recomputed": 5.0,
        },
        "estimators": {
            "ratio": {"gaussian": 1.0, "control_variate": 0.3},
            "standard_deviation_nats": {"gaussian": 17.0, "control_variate": 5.0},
            "images": 64,
            "source": "validation images",
            "draws": 100,
        },
        "solvers": {
            "least": 3.8,
            "rate": 0.85,
            "groups": {"flow": {"rates": [0.21, 0.58], "gains": [1.33, 3.25]}},
        },
        "certificates": {
            "kernels": 1,
            "bound": {
                "percent_above_the_norm": {"least": 0.0, "median": 1.0, "largest": 2.0},
                "seconds": 0.01,
            },
        },
    }
    table = markdown(results)
    for line in (
        "| convolutions | 0.500 s | 80% |",
        "| 8 | 400 MB | 90 MB |",
        "normflows needs 5.00 times as much",
        "| control variate | 5.00 nats | 0.300 |",
        "at least 3.8 times fewer",
        "| flow | 0.21 to 0.58 | 1.33 to 3.25 |",
        "| bound | 1 % (0 to 2) | 10 ms |",
    ):
        assert line in table
