"""The two steps of training, on a network of a few hundred parameters."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.config import Config
from skinml.data.prepared import PreparedSet
from skinml.evaluation.metrics import epoch_metrics
from skinml.models import classifier as classifiers
from skinml.models.classifier import Classifier, batch_norm_layers, build_classifier
from skinml.training import backend
from skinml.training import loop as training
from skinml.training.backend import Execution
from skinml.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from skinml.training.history import Row
from skinml.training.inputs import TrainingData, class_weights, mixed
from skinml.training.loop import TrainingResult, train
from skinml.training.steps import Batch

MEASURED = ("seconds", "images_per_second", "time")


@dataclass
class Trained:
    """A finished training, and the network's weights as they were before it."""

    classifier: Classifier
    config: Config
    data: TrainingData
    result: TrainingResult
    before: dict[str, np.ndarray]
    told: list[Row]

    @property
    def after(self) -> dict[str, np.ndarray]:
        return weights_of(self.classifier)

    def changed(self) -> set[str]:
        """The names of the weights that the training changed."""
        return {
            name
            for name, value in self.after.items()
            if not np.array_equal(value, self.before[name])
        }

    def column(self, name: str) -> list[float]:
        return [float(row[name]) for row in self.result.history]

    def facts(self) -> list[Row]:
        """The history without what is measured with a clock."""
        return [
            {key: value for key, value in row.items() if key not in MEASURED}
            for row in self.result.history
        ]


def weights_of(classifier: Classifier) -> dict[str, np.ndarray]:
    """Every weight by its part and name: tiny/conv/kernel, head/dense_1/bias and so on."""
    return {
        f"{part.name}/{layer.name}/{weight.name}": keras.ops.convert_to_numpy(weight)
        for part in (classifier.backbone, classifier.head)
        for layer in part.layers
        for weight in layer.weights
        if "dropout" not in layer.name
    }


Fit = Callable[..., Trained]

STATISTICS = {"moving_mean", "moving_variance"}


def of_backbone(names: set[str]) -> set[str]:
    return {name.rsplit("/", 1)[-1] for name in names if name.startswith("tiny/")}


@pytest.fixture
def fit(tiny_backbone: str, toy_set: PreparedSet) -> Iterator[Fit]:
    """Trains a fresh tiny network on the toy set's official parts with the given options."""

    def fit(
        digest: str = "",
        prepare: Callable[[Classifier], object] | None = None,
        going_on: Checkpoint | None = None,
        save: Callable[[Checkpoint], None] | None = None,
        **options: Any,
    ) -> Trained:
        values: dict[str, Any] = {
            "model": tiny_backbone,
            "weights": "none",
            "batch_size": 8,
            "dense_units": "16,8,8",
            "epochs_frozen": 0,
            "epochs_finetune": 2,
        }
        config = Config(**values | options).resolved()
        backend.configure("cpu", 0, config.seed)
        classifier = build_classifier(config, 3)
        if prepare:
            prepare(classifier)
        parts = toy_set.official_parts
        data = TrainingData(
            toy_set.images,
            toy_set.labels,
            np.flatnonzero(parts == "train"),
            np.flatnonzero(parts == "validation"),
            digest,
        )
        before = weights_of(classifier)
        told: list[Row] = []
        result = train(
            classifier, config, data, epoch_metrics, told.append, before=going_on, save=save
        )
        return Trained(classifier, config, data, result, before, told)

    yield fit
    keras.backend.clear_session()


# What each step may change


def test_frozen_batch_norm_keeps_statistics_scale_and_shift(fit: Fit) -> None:
    trained = fit(batch_norm="frozen", learning_rate_finetune=0.01)
    assert of_backbone(trained.changed()) == {"kernel", "bias"}


def test_trained_batch_norm_changes_statistics_scale_and_shift(fit: Fit) -> None:
    trained = fit(batch_norm="trained", learning_rate_finetune=0.01)
    changed = of_backbone(trained.changed())
    # The bias before a normalisation has no gradient but rounding: it may move or stay.
    assert changed | {"bias"} == {"kernel", "bias", "gamma", "beta", *STATISTICS}


def test_fine_tuning_the_last_stage_alone_leaves_the_layers_before_it(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The normalisation and the activation behind it.
    monkeypatch.setattr(classifiers, "last_stage", lambda backbone: backbone.layers[-2:])
    trained = fit(finetune_layers="last_stage", batch_norm="trained", learning_rate_finetune=0.01)
    assert of_backbone(trained.changed()) == {"gamma", "beta", *STATISTICS}
    assert any(name.startswith("head/") for name in trained.changed())


def test_the_frozen_step_trains_the_head_and_nothing_else(fit: Fit) -> None:
    trained = fit(epochs_frozen=3, epochs_finetune=0, batch_norm="trained", monitor="loss")
    head = {name for name in trained.before if name.startswith("head/")}
    assert len(head) == 8
    assert trained.changed() <= head
    assert len(trained.changed()) >= 4  # a unit that never fires has no gradient


def test_either_step_may_be_left_out(fit: Fit) -> None:
    def steps(**options: int) -> list[float | str]:
        return [row["step"] for row in fit(**options).result.history]

    assert steps(epochs_frozen=0, epochs_finetune=2) == ["finetune"] * 2
    assert steps(epochs_frozen=2, epochs_finetune=0) == ["frozen"] * 2


def test_training_leaves_no_optimizer_in_the_network(fit: Fit) -> None:
    trained = fit(epochs_frozen=1, epochs_finetune=1)
    assert not trained.classifier.model.compiled
    assert getattr(trained.classifier.model, "optimizer", None) is None


# The cost of the frozen step


@pytest.mark.parametrize("epochs", [1, 3, 20])
def test_an_image_passes_the_frozen_backbone_at_most_eight_times(fit: Fit, epochs: int) -> None:
    passes: Counter[bytes] = Counter()

    def count(classifier: Classifier) -> None:
        forward = classifier.features.predict_on_batch

        def counting(pixels: np.ndarray) -> np.ndarray:
            # The sorted pixels are the same for all eight symmetric views of an image.
            # A batch may be filled up with zeros.
            real = [image for image in pixels if image.any()]
            passes.update(np.sort(image, axis=None).tobytes() for image in real)
            return forward(pixels)

        classifier.features.predict_on_batch = counting

    trained = fit(prepare=count, epochs_frozen=epochs, epochs_finetune=0)
    assert len(passes) == 24 + 9
    assert max(passes.values()) <= min(8, epochs)
    assert sum(times > 1 for times in passes.values()) <= 24, "validation images need one pass"
    assert trained.result.backbone_images == sum(passes.values())


def test_without_augmentation_one_pass_is_enough(fit: Fit) -> None:
    trained = fit(epochs_frozen=3, epochs_finetune=0, augmentation="none")
    assert trained.result.backbone_images == 24 + 9


def test_features_are_computed_once_and_kept(fit: Fit) -> None:
    options: dict[str, Any] = {"epochs_frozen": 2, "epochs_finetune": 1}
    first, second = fit("a set", **options), fit("a set", **options)
    assert first.result.backbone_images > 0
    assert second.result.backbone_images == 0
    assert second.facts() == first.facts()
    np.testing.assert_equal(second.after, first.after)


def test_runs_of_many_epochs_share_their_features_whatever_their_seed(fit: Fit) -> None:
    def same_weights(classifier: Classifier) -> None:
        shapes = [weight.shape for weight in classifier.backbone.get_weights()]
        classifier.backbone.set_weights([np.full(shape, 0.1) for shape in shapes])

    options: dict[str, Any] = {"prepare": same_weights, "epochs_finetune": 0}
    assert fit("a set", epochs_frozen=40, seed=1, **options).result.backbone_images == 8 * 24 + 9
    assert fit("a set", epochs_frozen=50, seed=2, **options).result.backbone_images == 0


@pytest.mark.parametrize("change", [{"digest": "another set"}, {"seed": 1}, {"pooling": "2x2"}])
def test_features_of_something_else_are_not_taken_from_the_cache(
    fit: Fit, change: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"digest": "a set", "epochs_frozen": 1, "epochs_finetune": 0}
    fit(**options)
    assert fit(**options | change).result.backbone_images > 0


# What is reported, and what is kept


def test_the_history_is_complete_and_numbered_through_both_steps(fit: Fit) -> None:
    trained = fit(epochs_frozen=2, epochs_finetune=3, batch_size=5)
    history = trained.result.history
    assert trained.told == history
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in history] == ["frozen"] * 2 + ["finetune"] * 3
    measures = [f"{part}_{name}" for part in ("train", "val") for name in
                ("loss", "accuracy", "auc_macro")]  # fmt: skip
    for row in history:
        assert list(row) == ["epoch", "step", *measures, "learning_rate", *MEASURED]
        values = [float(row[name]) for name in (*measures, "learning_rate", *MEASURED)]
        assert np.isfinite(values).all()
        assert float(row["images_per_second"]) == pytest.approx(24 / float(row["seconds"]))
    times = trained.column("time")
    assert times == sorted(times)


@pytest.mark.parametrize("monitor", ["auc_macro", "accuracy", "loss", "last"])
@pytest.mark.parametrize(
    ("steps", "ema"), [((0, 5), 0.0), ((5, 0), 0.0), ((3, 3), 0.0), ((3, 3), 0.8)]
)
def test_the_network_ends_as_it_was_in_its_best_epoch(
    fit: Fit, monitor: str, steps: tuple[int, int], ema: float
) -> None:
    frozen, finetune = steps
    trained = fit(
        epochs_frozen=frozen,
        epochs_finetune=finetune,
        monitor=monitor,
        # Steps so large that the last epoch is hardly ever the best.
        learning_rate_frozen=0.05,
        learning_rate_finetune=0.05,
        learning_rate_schedule="constant",
        ema=ema,
        batch_norm="frozen" if ema else "trained",
    )
    # Of the last step alone, whatever an epoch of the frozen one has seen.
    before = frozen if finetune else 0
    values = trained.column("epoch" if monitor == "last" else f"val_{monitor}")[before:]
    best = min(values) if monitor == "loss" else max(values)
    assert trained.result.best_epoch == before + 1 + values.index(best)  # the earlier in a tie
    data = trained.data
    scores = trained.classifier.model.predict_on_batch(data.images[data.validation])
    row = trained.result.history[trained.result.best_epoch - 1]
    for name, value in epoch_metrics(data.labels[data.validation], scores).items():
        assert value == pytest.approx(float(row[f"val_{name}"]), abs=1e-5)


def test_fine_tuning_starts_from_the_best_frozen_epoch(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_start = []

    def spy(classifier: Classifier, batch_norm: str, layers: str) -> None:
        at_start.append(weights_of(classifier))

    monkeypatch.setattr(training, "unfreeze", spy)
    options: dict[str, Any] = {
        "epochs_frozen": 6,
        "learning_rate_frozen": 0.1,
        "learning_rate_schedule": "constant",
    }
    frozen_alone = fit(epochs_finetune=0, **options)
    assert frozen_alone.result.best_epoch < 6, "choose a seed whose last epoch is not the best"
    fit(epochs_finetune=1, **options)
    np.testing.assert_equal(at_start[0], frozen_alone.after)


@pytest.mark.parametrize(
    "options", [{"epochs_finetune": 20}, {"epochs_frozen": 30, "epochs_finetune": 0}]
)
def test_the_training_loss_falls(fit: Fit, options: dict[str, Any]) -> None:
    trained = fit(
        learning_rate_frozen=0.01,
        learning_rate_finetune=0.01,
        dropout=0.0,
        augmentation="none",
        **options,
    )
    losses = trained.column("train_loss")
    assert np.mean(losses[-3:]) < 0.8 * losses[0]


# Repeatability


BOTH_STEPS: dict[str, Any] = {"epochs_frozen": 2, "epochs_finetune": 2, "batch_norm": "trained"}


def test_the_same_seed_gives_the_same_bits(fit: Fit) -> None:
    first, second = fit(**BOTH_STEPS), fit(**BOTH_STEPS)
    assert first.facts() == second.facts()
    np.testing.assert_equal(first.after, second.after)


@pytest.mark.parametrize(
    ("given", "policy", "after"),
    [
        ({"optimizer": "adamw"}, "float32", [1, 2, 3, 4]),
        ({"optimizer": "sgd", "ema": 0.9, "batch_norm": "frozen"}, "float32", [3]),
        ({"augmentation": "crops", "mixup": 0.4, "focal": 2.0}, "float32", [1, 3]),
        # Scales the loss, by variables of its own.
        ({"optimizer": "adam"}, "mixed_float16", [1, 3]),
    ],
    ids=str,
)
def test_a_training_goes_on_after_any_epoch_as_if_it_had_never_stopped(
    fit: Fit, given: dict[str, Any], policy: str, after: list[int], tmp_path: Path
) -> None:
    """On a network of other initial weights, by what its checkpoint's file holds alone."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        saved: list[Checkpoint] = []
        how = {**BOTH_STEPS, **given}
        whole = fit(save=saved.append, **how)
        assert [checkpoint.epoch for checkpoint in saved] == [1, 2, 3, 4]
        assert [len(checkpoint.history) for checkpoint in saved] == [1, 2, 3, 4]

        def other_weights(classifier: Classifier) -> None:
            shapes = [weight.shape for weight in classifier.model.get_weights()]
            classifier.model.set_weights([np.full(shape, 0.5) for shape in shapes])

        for epoch in after:
            save_checkpoint(tmp_path, saved[epoch - 1])
            read = load_checkpoint(tmp_path)
            again = fit(prepare=other_weights, going_on=read, **how)
            assert again.facts() == whole.facts()
            assert [row["epoch"] for row in again.told] == list(range(epoch + 1, 5))
            assert again.result.best_epoch == whole.result.best_epoch
            assert again.result.backbone_images == whole.result.backbone_images
            np.testing.assert_equal(again.after, whole.after)
            momenta = [
                [layer.momentum for layer in batch_norm_layers(trained.classifier)]
                for trained in (whole, again)
            ]
            assert momenta[0] == momenta[1]
            (tmp_path / f"checkpoint-{epoch:06d}").unlink()
    finally:
        keras.mixed_precision.set_global_policy(before)


def test_a_training_goes_on_with_the_normalisation_of_its_network(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras's layer computes with constants that setting its weights leaves as they were."""
    plain = keras.applications.Tiny

    def normalised(**options: Any) -> keras.Model:
        pixels = keras.Input(options["input_shape"])
        return keras.Model(pixels, plain(**options)(keras.layers.Normalization()(pixels)))

    def pretrained(classifier: Classifier) -> None:
        mean, variance, *others = classifier.model.get_weights()
        classifier.set_weights([mean + 0.3, variance * 4, *others])

    monkeypatch.setattr(keras.applications, "Tiny", normalised)
    options: dict[str, Any] = {"epochs_frozen": 2, "epochs_finetune": 1, "batch_norm": "frozen"}
    saved: list[Checkpoint] = []
    whole = fit(save=saved.append, prepare=pretrained, **options)
    for checkpoint in saved[:-1]:
        assert fit(going_on=checkpoint, **options).facts() == whole.facts()


def test_another_seed_gives_another_network(fit: Fit) -> None:
    first, second = fit(**BOTH_STEPS), fit(seed=1, **BOTH_STEPS)
    assert first.facts() != second.facts()
    assert not np.array_equal(first.after["tiny/conv/kernel"], second.after["tiny/conv/kernel"])


def test_dropout_of_an_epoch_depends_on_seed_and_epoch_alone(fit: Fit) -> None:
    head = fit(dropout=0.5).classifier.head
    inputs = np.ones((4, 8), np.float32)

    def scores(seed: int, epoch: int) -> np.ndarray:
        training._seed_dropout(head, seed, epoch)
        return keras.ops.convert_to_numpy(head(inputs, training=True))

    first = scores(3, 7)
    assert len(np.unique(first, axis=0)) > 1, "dropout is off"
    for _ in range(3):
        head(inputs, training=True)
    np.testing.assert_array_equal(scores(3, 7), first)
    assert not np.array_equal(scores(3, 8), first)
    assert not np.array_equal(scores(4, 7), first)


# Options


def test_balanced_class_weights_change_the_result(fit: Fit) -> None:
    plain, balanced = fit(), fit(class_weights="balanced")
    assert plain.facts() != balanced.facts()


def test_balanced_class_weights_give_each_class_the_same_say(fit: Fit) -> None:
    trained = fit(epochs_frozen=1, epochs_finetune=0, class_weights="balanced")
    weights = class_weights(trained.config, trained.data)
    labels = trained.data.labels[trained.data.train]
    by_class = [weights[labels[labels == k]].sum() for k in range(3)]
    np.testing.assert_allclose(by_class, 24 / 3, rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_every_optimizer_and_schedule_trains(fit: Fit, optimizer: str, schedule: str) -> None:
    trained = fit(optimizer=optimizer, learning_rate_schedule=schedule, epochs_finetune=1)
    assert {"kernel"} <= of_backbone(trained.changed())
    assert np.isfinite(trained.column("train_loss")).all()


def test_weight_decay_belongs_to_adamw_and_spares_biases_and_normalisation(fit: Fit) -> None:
    def decayed(decay: float, optimizer: str) -> dict[str, np.ndarray]:
        return fit(epochs_finetune=1, optimizer=optimizer, weight_decay=decay).after

    without, with_decay = decayed(0, "adamw"), decayed(1, "adamw")
    kernels = [name for name in without if name.endswith("/kernel")]
    assert len(kernels) == 5
    for name in kernels:
        assert np.abs(with_decay[name]).sum() < np.abs(without[name]).sum()
    np.testing.assert_equal(decayed(0, "adam"), decayed(1, "adam"))
    optimizer = training._optimizer(Config(weight_decay=1.0), 0.1, 10)
    variables = [
        keras.Variable(np.ones(2, np.float32), name=name)
        for name in ("kernel", "bias", "gamma", "beta")
    ]
    optimizer.build(variables)
    optimizer.apply_gradients([(keras.ops.zeros(2), variable) for variable in variables])
    decayed_names = {v.name for v in variables if float(v[0]) < 1}
    assert decayed_names == {"kernel"}


def test_labels_are_smoothed_as_published() -> None:
    """ArXiv 1512.00567, section 7: a share of each label goes to all classes alike."""
    labels = np.array([0, 2, 1, 2])
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4], [0.5, 0.3, 0.2]])
    targets = 0.9 * np.eye(3)[labels] + 0.1 / 3
    expected = -(targets * np.log(scores)).sum(axis=1)
    loss = training._loss(Config(label_smoothing=0.1))
    for shape in ((4,), (4, 1)):  # Keras hands over either
        found = loss(keras.ops.reshape(labels, shape), keras.ops.convert_to_tensor(scores))
        np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected, rtol=1e-6)
    plain = training._loss(Config())
    assert plain == "sparse_categorical_crossentropy"


def test_the_focal_loss_weighs_an_image_by_how_little_it_is_known() -> None:
    """(1 − p)^γ · −log p (arXiv 1708.02002), of labels and of mixtures of them."""
    scores = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]], np.float32)
    each = (1 - scores) ** 2 * -np.log(scores)
    labels = training._loss(Config(focal=2.0))(keras.ops.array([0, 2]), scores)
    np.testing.assert_allclose(labels, [each[0, 0], each[1, 2]], rtol=1e-5)
    shares = np.array([[1, 0, 0], [0.25, 0, 0.75]], np.float32)
    mixtures = training._loss(Config(focal=2.0, mixup=0.2))(keras.ops.array(shares), scores)
    np.testing.assert_allclose(mixtures, (shares * each).sum(axis=1), rtol=1e-5)
    plain = training._loss(Config(mixup=0.2))(keras.ops.array(shares), scores)
    np.testing.assert_allclose(plain, -(shares * np.log(scores)).sum(axis=1), rtol=1e-5)


def test_a_mixture_has_the_shares_of_its_images_in_pixels_labels_and_weights() -> None:
    pixels = np.array([0, 100, 200], np.uint8).reshape(3, 1, 1, 1)
    batch = Batch(pixels, np.array([0, 1, 2]), np.array([1.0, 2.0, 4.0], np.float32))
    found = mixed(batch, np.array([1.0, 0.5, 0.75]), 3)
    assert found.inputs.dtype == np.uint8 and found.inputs.ravel().tolist() == [0, 100, 150]
    # Times its weight each label has what its own image would give it: 0.25 · 1 and 0.75 · 4.
    expected = np.array([[1, 0, 0], [0, 2, 0], [0.25, 0, 3]])
    np.testing.assert_allclose(found.labels * found.weights[:, None], expected, rtol=1e-6)
    np.testing.assert_allclose(found.labels.sum(axis=1), 1, rtol=1e-6)
    even = mixed(batch._replace(weights=np.ones(3, np.float32)), np.array([1.0, 0.5, 0.75]), 3)
    assert even.labels.tolist() == [[1, 0, 0], [0, 1, 0], [0.25, 0, 0.75]]
    assert even.weights.tolist() == [1, 1, 1]
    assert mixed(batch._replace(inputs=pixels / 8), np.full(3, 0.5), 3).inputs[0] == 12.5


def test_crops_are_of_the_images_and_the_frozen_step_has_none(fit: Fit) -> None:
    told = {
        augmentation: fit(epochs_frozen=2, epochs_finetune=1, augmentation=augmentation).column(
            "train_loss"
        )
        for augmentation in ("dihedral", "crops")
    }
    assert told["crops"][:2] == told["dihedral"][:2]
    assert told["crops"][2] != told["dihedral"][2]


def test_the_average_of_the_weights_is_exponential_and_leaves_the_weights_alone() -> None:
    """The first weights, then m × average + (1 − m) × weights after every update."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    config = Config(optimizer="sgd", learning_rate_schedule="constant", ema=0.75)
    model.compile(optimizer=training._optimizer(config, 0.1, 10), loss="mse")
    model.optimizer.build(model.trainable_variables)

    def weights() -> list[np.ndarray]:
        return [np.array(keras.ops.convert_to_numpy(v)) for v in model.trainable_variables]

    expected: list[np.ndarray] = []
    for number in range(4):
        slopes = [keras.ops.ones(v.shape) * (number + 1) for v in model.trainable_variables]
        model.optimizer.apply(slopes, model.trainable_variables)
        now = weights()
        pairs = zip(expected or now, now, strict=True)
        expected = [0.75 * average + 0.25 * value for average, value in pairs]
        with training._averaged(model):
            for average, value in zip(expected, weights(), strict=True):
                np.testing.assert_allclose(value, average, rtol=1e-6)
        np.testing.assert_equal(weights(), now)


def test_the_cosine_schedule_warms_up_and_decays_without_reaching_zero(fit: Fit) -> None:
    peak = 0.01
    # 3 updates an epoch, 120 in all: the first 6, two epochs, warm up.
    rates = np.array(fit(epochs_finetune=40, learning_rate_finetune=peak).column("learning_rate"))
    assert (rates > 0).all()
    assert rates[0] < rates[1] < peak
    assert rates.max() == pytest.approx(peak, rel=0.02)
    assert (np.diff(rates[2:]) < 0).all()
    assert rates[-1] < peak / 100


def test_the_constant_schedule_stays_at_the_peak_of_each_step(fit: Fit) -> None:
    trained = fit(
        epochs_frozen=2,
        epochs_finetune=2,
        learning_rate_frozen=0.01,
        learning_rate_finetune=0.001,
        learning_rate_schedule="constant",
    )
    assert trained.column("learning_rate") == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_every_training_image_is_seen_once_an_epoch_and_no_other(fit: Fit) -> None:
    seen: list[np.ndarray] = []

    class Watched(np.ndarray):
        def __getitem__(self, rows: Any) -> Any:
            if isinstance(rows, np.ndarray):
                seen.append(rows)
            # A plain array, whose own parts nobody watches.
            return np.asarray(super().__getitem__(rows))

    trained = fit(epochs_finetune=1)
    data = trained.data
    watched = TrainingData(data.images.view(Watched), data.labels, data.train, data.validation)
    train(trained.classifier, trained.config, watched, epoch_metrics, lambda row: None)
    rows = np.sort(np.concatenate(seen))
    np.testing.assert_array_equal(rows, np.sort(np.r_[data.train, data.validation]))


def test_a_loss_that_is_not_finite_is_never_the_best_epoch() -> None:
    best = training._Best("loss")
    for epoch, value in enumerate([np.nan, 2.0, np.nan, 3.0, np.inf], start=1):
        best.offer({"epoch": epoch, "val_loss": value}, [np.full(1, epoch)])
    assert best.epoch == 2


@pytest.mark.parametrize(
    ("precision", "remedy"),
    [
        ("float32", "a learning_rate_finetune below"),
        ("mixed_bfloat16", "--precision float32 or"),
    ],
)
def test_a_training_whose_loss_is_no_number_ends_with_the_remedy(
    fit: Fit, precision: str, remedy: str
) -> None:
    """Seen on a GPU: what would follow costs hours, and no later step makes a number of it."""
    trained = fit(epochs_frozen=0, epochs_finetune=1)
    told: list[Row] = []
    saved: list[Checkpoint] = []
    model = trained.classifier.model
    model.set_weights([np.full_like(values, np.nan) for values in model.get_weights()])
    with pytest.raises(UserError, match=rf"^epoch 1 .*train_loss nan.*{remedy}"):
        train(
            trained.classifier,
            trained.config,
            trained.data,
            epoch_metrics,
            told.append,
            Execution(precision),
            save=saved.append,
        )
    assert not told and not saved
