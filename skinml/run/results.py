"""What a trained network is worth: tables, metrics, figures and texts of a run's folder."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skinml.backbones import BACKBONES
from skinml.base.progress import progress_bar
from skinml.config import Config
from skinml.data.isic2017 import NOTICE
from skinml.data.prepared import PreparedSet
from skinml.evaluation.appearance import appearances
from skinml.evaluation.operating_point import rule_of
from skinml.evaluation.predictions import Predictions, write_predictions
from skinml.evaluation.results import PREFIXES, chosen_on_validation, evaluate_tables
from skinml.evaluation.subgroups import figures_of_run, write_subgroups
from skinml.explain.of_run import explain_run
from skinml.export.made import EXPORT_CHECKED, export_run
from skinml.run.note import make_note
from skinml.tracking.folder import CARD, PICTURES, REPORT, SUBGROUPS, Description, RunFolder

if TYPE_CHECKING:
    import keras

    from skinml.models.classifier import Classifier
    from skinml.training.loop import TrainingResult


class Costs(NamedTuple):
    """The metrics of a run that are no function of its predictions; the fields are their names."""

    parameters_millions: float
    model_size_mb: float
    published_parameters_millions: float
    published_size_mb: float
    latency_ms: float
    latency_ms_q25: float
    latency_ms_q75: float
    training_seconds: float
    best_epoch: int
    frozen_backbone_images: int


def evaluate(
    folder: RunFolder,
    config: Config,
    description: Description,
    data: PreparedSet,
    parts: np.ndarray,
    classifier: "Classifier",
    result: "TrainingResult",
    seconds: float,
) -> None:
    """Everything after the training, into the run folder: the test part is touched here, once."""
    from skinml.evaluation.scoring import predict_part
    from skinml.models.classifier import with_views

    views = int(config.test_views)
    network = with_views(classifier.model, views)
    rows = {part: np.flatnonzero(parts == part) for part in PREFIXES}
    tables = {}
    for part in PREFIXES:
        tables[part] = predict_part(network, data, rows[part], part, views)
        if part == "test":
            tables[part] = _with_appearances(tables[part], data.images, rows[part])
        write_predictions(tables[part], folder.predictions(part))
    metrics = evaluate_tables(tables, rule_of(description.params))
    network.save(folder.model)
    costs = _measure(folder, config, network, classifier, data.images[:1], result, seconds)
    metrics |= costs._asdict()
    if config.export:
        images = data.images[rows["validation"][:EXPORT_CHECKED]]
        expected = tables["validation"].scores[:EXPORT_CHECKED]
        chosen = chosen_on_validation(metrics, data.classes, description.params)
        metrics |= export_run(folder, description.params, chosen, network, images, expected)
    folder.write_metrics(metrics)
    test = tables["test"]
    explained = explain_run(folder, description, test, data.images, rows["test"], classifier.model)
    _draw(
        folder, description, tables, result.best_epoch,
        lambda some: data.images[rows["test"][some]], explained,
    )  # fmt: skip
    folder.write_text("classification_report.txt", _report(test))
    folder.write_text("model_summary.txt", _summary(classifier))
    folder.write_text("note.md", make_note(config, description, metrics, test))
    write_report(folder, description, metrics, tables)
    folder.finish()


def _with_appearances(table: Predictions, images: np.ndarray, rows: np.ndarray) -> Predictions:
    """A predictions table with what its pictures show among what is known of them."""
    with progress_bar("looking at the test part", len(rows)) as advance:

        def pictures() -> Iterator[np.ndarray]:
            for row in rows:
                yield images[row]
                advance()

        return replace(table, subgroups={**table.subgroups, **appearances(pictures())})


def write_report(
    folder: RunFolder,
    description: Description,
    metrics: Mapping[str, float],
    tables: Mapping[str, Predictions],
) -> None:
    """Write a run's report, with the figures of its folder inside, and its model card."""
    from skinml.run.card import make_card
    from skinml.run.report import limits, make_report, write_html

    figures = frozenset(path.stem for path in folder.figures.glob("*.png"))
    pictures = (folder.path / PICTURES).is_file()
    document = make_report(description, metrics, tables, figures, pictures=pictures)
    write_html(document, folder.figures, folder.path / REPORT)
    test = tables["test"]
    if groups := figures_of_run(test, metrics):
        write_subgroups(groups, folder.path / SUBGROUPS)
    told = limits(description.tags["data"], len(test.classes))
    folder.write_text(CARD, make_card(description, metrics, test, told))


def _measure(
    folder: RunFolder,
    config: Config,
    network: "keras.Model",
    classifier: "Classifier",
    image: np.ndarray,
    result: "TrainingResult",
    seconds: float,
) -> Costs:
    """What a network costs: `network` answers `image` (1, 224, 224, 3) as the run's model does."""
    from skinml.evaluation.scoring import measure_latency
    from skinml.training.backend import compiled_call

    latency = measure_latency(compiled_call(network), image)
    published = BACKBONES[config.model]
    return Costs(
        parameters_millions=classifier.model.count_params() / 1e6,
        model_size_mb=folder.model.stat().st_size / 1e6,
        published_parameters_millions=published.published_parameters,
        published_size_mb=published.published_size,
        latency_ms=latency.median,
        latency_ms_q25=latency.low,
        latency_ms_q75=latency.high,
        training_seconds=seconds,
        best_epoch=result.best_epoch,
        frozen_backbone_images=result.backbone_images,
    )


def _draw(
    folder: RunFolder,
    description: Description,
    tables: Mapping[str, Predictions],
    best_epoch: int,
    images: Callable[[np.ndarray], np.ndarray],
    maps: Callable[[np.ndarray], np.ndarray] | None,
) -> None:
    from skinml.evaluation.figures import FigureData, draw_figures
    from skinml.run.report import figures_title

    test, validation = tables["test"], tables["validation"]
    rule = rule_of(description.params)
    data = FigureData(
        figures_title(description),
        test,
        folder.read_history(),
        best_epoch,
        images,
        validation,
        rule,
        maps,
    )
    draw_figures(data, folder.figures)


def _summary(classifier: "Classifier") -> str:
    lines: list[str] = []
    classifier.model.summary(print_fn=lines.append, expand_nested=True)
    return "\n".join(lines) + "\n"


def _report(predictions: Predictions) -> str:
    from sklearn.metrics import classification_report

    report = classification_report(
        predictions.labels,
        predictions.predicted,
        labels=range(len(predictions.classes)),
        target_names=predictions.classes,
        digits=4,
        zero_division=0.0,
    )
    return f"{report}\n{NOTICE}\n"
