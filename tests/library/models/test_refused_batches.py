"""What Keras' loops are given: taken as stock Keras takes it, or refused in one line."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library import small_models as small

pytestmark = pytest.mark.quick

X = small.points(12, 2)
LABELS = np.arange(12) % 3
IMAGES = X.reshape(12, 2, 1, 1)


def flow(**changes):
    model = small.flow((2,), levels=None, blocks=(1,), hidden=4, **changes)
    model.compile("sgd", run_eagerly=True)
    return model


def hybrid():
    model = small.hybrid((2,), levels=None, blocks=(1,), hidden=4)
    model.compile("sgd", run_eagerly=True)
    return model


def classifier():
    model = small.classifier((2, 1, 1), blocks=(1,), hidden=4, padding=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    return model


def batches(*parts):
    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0]).batch(4)


def every_loop(model, *data):
    """The loops that take arrays, and those that take a data set of the same."""
    yield lambda: model.fit(*data, verbose=0)
    yield lambda: model.evaluate(*data, verbose=0)
    yield lambda: model.train_on_batch(*data)
    yield lambda: model.test_on_batch(*data)
    source = batches(*data)
    yield lambda: model.fit(source, verbose=0, shuffle=False)
    yield lambda: model.evaluate(source, verbose=0)
    if model.name.startswith("i_res_net_flow") and model.context_size is None:
        yield lambda: model.fit(X, validation_data=source, verbose=0)
    yield lambda: model.train_step(next(iter(source)))
    yield lambda: model.test_step(next(iter(source)))


NAMED = {"image": X, "label": LABELS}
REFUSED = {
    "labels of a flow": (flow, (X, LABELS), r"reads x alone, got a y beside it; leave y out, as"),
    "dictionary for a flow": (flow, (NAMED,), r"'image', 'label'; pick .*lambda d: d\['image'\]"),
    "dictionary for a hybrid": (
        hybrid,
        (NAMED,),
        r"reads x and labels, got a dictionary .*lambda d: \(d\['image'\], d\['label'\]\)",
    ),
    "no labels": (hybrid, (X,), "is trained on pairs of x and labels y, .*got no y"),
    "no images' labels": (classifier, (IMAGES,), "is trained on pairs of x and labels y"),
    "no context": (lambda: flow(context_size=3), (X,), "is conditional: give context beside x"),
    "another shape": (flow, (np.zeros((12, 3)),), r"x must have the shape \[batch, 2\], got"),
}


@pytest.mark.parametrize(("make", "data", "message"), REFUSED.values(), ids=REFUSED)
def test_batches_of_another_structure_are_refused_in_every_loop(make, data, message):
    model = make()
    for loop in every_loop(model, *data):
        with pytest.raises(ValueError, match=message) as error:
            loop()
        assert "\n" not in str(error.value)
    assert not model.initialized or not hasattr(model, "prior")
    assert int(model.optimizer.iterations) == 0


def test_other_sources_are_refused_by_their_first_batch():
    generator = ((X[i : i + 4], LABELS[i : i + 4]) for i in (0, 4, 8))
    model = flow(actnorm=False)
    with pytest.raises(ValueError, match="reads x alone, got a y beside it"):
        model.fit(generator, verbose=0, shuffle=False)
    with pytest.raises(ValueError, match="a list of 2 in the place of one array"):
        model.fit([X, X], verbose=0)
    with pytest.raises(ValueError, match="got a tuple of 4 parts"):
        model.train_step((X, None, None, None))


@pytest.mark.parametrize("make", [flow, hybrid])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "mse"),
        ("loss_weights", [1.0]),
        ("metrics", ["accuracy"]),
        ("weighted_metrics", ["accuracy"]),
    ],
)
def test_a_density_has_its_own_loss_and_metrics(make, name, value):
    model = make()
    with pytest.raises(ValueError, match=rf"own loss and metrics, got {name}=.*; leave {name} out"):
        model.compile("sgd", **{name: value})
    model.compile("sgd", loss=None, metrics=None)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_a_classifier_s_loss_is_a_mean(reduction):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    with pytest.raises(ValueError, match=f"loss has reduction='{reduction}', .* leave reduction"):
        classifier().compile("sgd", loss)


def test_class_weights_need_classes():
    for model, message in (
        (flow(), "class_weight needs labels, which the flow .* does not read; give sample_weight"),
        (flow(context_size=3), "class_weight needs labels"),
    ):
        for call in (
            lambda model=model: model.fit(X, LABELS, class_weight={0: 1.9}, verbose=0),
            lambda model=model: model.train_on_batch(X, LABELS, class_weight={0: 1.9}),
        ):
            with pytest.raises(ValueError, match=message):
                call()
    for weights in ({0: -1.0}, {0: np.nan}, [1.0, 2.0]):
        with pytest.raises(ValueError, match="class_weight must"):
            hybrid().fit(X, LABELS, class_weight=weights, verbose=0)


def test_prediction_takes_what_training_takes():
    model = flow()
    np.testing.assert_allclose(
        model.predict(batches(X), verbose=0), model.predict(X, verbose=0), rtol=1e-6
    )
    with pytest.raises(ValueError, match="reads x alone"):
        model.predict(batches(X, LABELS), verbose=0)
    with pytest.raises(ValueError, match="a dictionary"):
        model.predict(NAMED, verbose=0)
    labelled = hybrid()
    pairs = labelled.predict(batches(X, LABELS), verbose=0)
    np.testing.assert_allclose(pairs, labelled.predict(X, verbose=0), rtol=1e-6)


def test_a_compiled_model_is_compiled_when_it_is_loaded(tmp_path):
    model = flow()
    model.fit(X, verbose=0)
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    assert int(loaded.optimizer.iterations) == 1
    loaded.fit(X, verbose=0)
    assert int(loaded.optimizer.iterations) == 2
