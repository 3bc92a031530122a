"""Weights of examples: sum_i w_i l_i / sum_i w_i in every loop, on any number of devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library import small_models as small
from tests.library.mirrored import mirrored
from tf_iresnet.log_det import Exact

X = small.points(12, 2)
W = np.random.default_rng(0).uniform(0.0, 3.0, 12).astype("float32")
W[[2, 7]] = 0.0
CONTEXT = np.eye(2, dtype="float32")[np.arange(12) % 2]
LABELS = np.arange(12) % 3
POINTS = {"levels": None, "blocks": (1,), "hidden": 4, "kernel_sizes": (1, 1)}
POINTS |= {"log_det": Exact(), "eval_log_det": Exact()}


def flow(**changes):
    return small.flow((2,), **{**POINTS, **changes})


def classifier():
    options = {"blocks": (1,), "hidden": 4, "kernel_sizes": (3, 1), "padding": 0}
    model = small.classifier((2, 1, 1), actnorm=False, **options)
    model.head.layers[0].trainable = False  # in inference mode: no statistics of batches
    return model


MODELS = {
    "flow": (flow, X, ()),
    "conditional": (lambda: flow(context_size=2), X, (CONTEXT,)),
    "hybrid": (lambda: small.hybrid((2,), **POINTS), X, (LABELS,)),
    "classifier": (classifier, X.reshape(12, 2, 1, 1), (LABELS,)),
}


def compiled(model, optimizer=None):
    optimizer = keras.optimizers.SGD(0.5) if optimizer is None else optimizer
    if isinstance(model, keras.Model) and hasattr(model, "log_prob"):
        model.compile(optimizer, run_eagerly=True)
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, weighted_metrics=["accuracy"], run_eagerly=True)
    return model


def triples(x, y, w):
    """A data set with weights, which for a plain flow has zeros in the place of y."""
    return tf.data.Dataset.from_tensor_slices((x, *(y or (np.zeros(len(x)),)), w))


def losses_of_each(model, x, y):
    """The loss of each example, by evaluating it alone."""
    return np.array(
        [
            model.test_on_batch(x[i : i + 1], *(part[i : i + 1] for part in y), return_dict=True)[
                "loss"
            ]
            for i in range(len(x))
        ]
    )


@pytest.mark.parametrize("kind", MODELS)
def test_weighted_means_of_evaluation_and_steps(kind):
    make, x, y = MODELS[kind]
    model = compiled(make(), keras.optimizers.SGD(0.0))
    if hasattr(model, "adapt") and not model.initialized:
        inputs = model.inputs_of((x, *y))
        model.adapt(inputs.pop("x"), **inputs)
    each = losses_of_each(model, x, y)
    expected = np.average(each, weights=W)
    assert abs(expected - each.mean()) > 0.003
    found = [
        model.evaluate(x, *y, sample_weight=W, batch_size=5, verbose=0, return_dict=True)["loss"],
        model.evaluate(triples(x, y, W[:, None]).batch(5), verbose=0, return_dict=True)["loss"],
        model.test_on_batch(x, *y, sample_weight=W, return_dict=True)["loss"],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    plain = model.evaluate(x, *y, sample_weight=np.ones(12), verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(plain, each.mean(), rtol=1e-5)
    if kind == "hybrid":  # its head takes the statistics of a training batch
        return
    logs = model.train_on_batch(x, *y, sample_weight=W, return_dict=True)
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-4)
    history = model.fit(
        x, *y, sample_weight=W, batch_size=5, verbose=0, validation_data=(x, *(y or (None,)), W)
    ).history
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(history["val_loss"], expected, rtol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_a_weight_of_two_is_an_example_twice(kind):
    """A step on repeated examples is one on weights, whatever their scale."""
    make, x, y = MODELS[kind]
    times = np.array([1, 0, 2, 1, 0, 3, 1, 1, 0, 2, 1, 0])
    repeated = [np.repeat(part, times, axis=0) for part in (x, *y)]
    ends = []
    for data in ((*repeated,), (x, *(y or (None,)), 0.25 * times)):
        model = compiled(make())
        if kind == "hybrid":
            model.head.trainable = False
            norms = [a for a in model.head._flatten_layers() if "normalization" in a.name]
            for norm in norms:
                norm.trainable = False
        if not model.initialized:
            inputs = model.inputs_of((x, *y))
            model.adapt(inputs.pop("x"), **inputs)
        start = small.values(model.trainable_variables)
        model.train_on_batch(*data)
        ends.append(small.values(model.trainable_variables))
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(start, ends[0], strict=True))
    for twice, weighted in zip(*ends, strict=True):
        np.testing.assert_allclose(weighted, twice, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["hybrid", "classifier"])
def test_class_weights_are_weights_of_examples(kind):
    make, x, y = MODELS[kind]
    weights = {0: 2.0, 1: 0.5, 2: 0.0}
    by_class = np.array([weights[label] for label in LABELS], "float32")
    ends = []
    for given in ({"class_weight": weights}, {"sample_weight": by_class}, {}):
        model = compiled(make())
        if not model.initialized:
            model.adapt(x)
        model.fit(x, *y, batch_size=6, shuffle=False, verbose=0, **given)
        ends.append(np.concatenate([v.ravel() for v in small.values(model.trainable_variables)]))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-5, atol=1e-7)
    assert np.abs(ends[0] - ends[2]).max() > 1e-3


@pytest.mark.parametrize("kind", ["flow", "classifier"])
def test_weights_on_two_devices_are_those_of_one(kind):
    """Parts of different size, one of them without weight, and batches of one example."""
    make, x, y = MODELS[kind]
    w = W.copy()
    w[:3] = 0.0  # all that the first device sees of the first batch
    ends = []
    for strategy in (tf.distribute.get_strategy(), mirrored()):
        with strategy.scope():
            model = make()
            if kind == "flow":
                model.compile(keras.optimizers.SGD(0.1))
            else:
                loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
                metrics = {"metrics": ["accuracy"], "weighted_metrics": ["accuracy"]}
                model.compile(keras.optimizers.SGD(0.1), loss, **metrics)
        model.run_eagerly = not ends  # what is traced is compared with it
        if not model.initialized:
            model.adapt(x)
        given = {"sample_weight": w, "batch_size": 5, "verbose": 0}
        logs = []
        show = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs, kept=logs: kept.append(dict(logs))
        )
        history = model.fit(x, *y, shuffle=False, callbacks=[show], **given).history
        found = model.evaluate(x, *y, return_dict=True, **given)
        seen = [[entry[name] for name in sorted(entry)] for entry in (*logs, found)]
        seen.append([history[name][0] for name in sorted(history)])
        ends.append([*small.values_of(model.trainable_variables), *map(np.array, seen)])
    for one, two in zip(*ends, strict=True):
        np.testing.assert_allclose(two, one, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (-W, "sample_weight must hold finite numbers of at least 0, got -"),
        (W * np.nan, "sample_weight must hold finite numbers of at least 0, got nan"),
        (0 * W, "sample_weight is 0 for every example"),
        (np.ones((12, 2)), r"sample_weight must hold one number for each .* got \(12, 2\)"),
    ],
)
def test_what_is_no_weight_is_refused_before_any_work(weights, message):
    model = compiled(flow())
    for call in (
        lambda: model.fit(X, sample_weight=weights, verbose=0),
        lambda: model.evaluate(X, sample_weight=weights, verbose=0),
        lambda: model.train_on_batch(X, sample_weight=weights),
        lambda: model.test_on_batch(X, sample_weight=weights),
        lambda: model.fit(X, validation_data=(X, None, weights), verbose=0),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert not model.initialized


@pytest.mark.parametrize("eagerly", [True, False])
def test_batches_with_wrong_weights_end_fit_with_the_weights_untouched(eagerly):
    model = flow()
    model.compile(keras.optimizers.SGD(0.5), run_eagerly=eagerly)
    model.adapt(X)
    before = small.values(model.trainable_variables)
    for y, w, message in ((0 * W, -W, "at least 0"), (W, W, r"y must be zeros")):
        with pytest.raises(ValueError, match=message):
            model.fit(triples(X, (y,), w).batch(6), verbose=0, shuffle=False)
        with pytest.raises(ValueError, match=message):
            model.evaluate(triples(X, (y,), w).batch(6), verbose=0)
    small.assert_same(small.values(model.trainable_variables), before)


def test_a_batch_without_weight_is_a_skipped_step():
    model = compiled(flow())
    model.adapt(X)
    model.max_skipped_steps = 2
    logs = model.train_step((X, None, 0 * W))
    assert np.isnan(float(logs["loss"]))
    assert float(logs["skipped_steps"]) == 1
    with pytest.raises(FloatingPointError, match="the weights of the batch sum to zero"):
        model.train_step((X, None, 0 * W))
