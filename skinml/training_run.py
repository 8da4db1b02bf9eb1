"""One run, end to end: the one place where data, models, training, evaluation and tracking meet."""

import contextlib
import errno
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skinml.backend import PLAIN, Device, Execution
from skinml.config import AUTO, Config
from skinml.data.isic2017 import CLASSES, NOTICE, OFFICIAL_PARTS, PARTS
from skinml.data.prepare import duplicates_warning, open_data
from skinml.data.prepared import PreparedSet
from skinml.data.protocols import assign_parts, images_seen_in_training
from skinml.errors import UserError
from skinml.evaluation.metrics import HEADLINE, epoch_metrics, point_metrics
from skinml.evaluation.predictions import Predictions, write_predictions
from skinml.evaluation.statistics import bootstrap_intervals
from skinml.history import Row
from skinml.models.backbones import BACKBONES
from skinml.models.weights import check_weights, weights_digest, weights_kind
from skinml.processes import stop_no_more
from skinml.provenance import code_digest, git_state, library_versions
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.track import Tracked, track

if TYPE_CHECKING:
    from skinml.models.classifier import Classifier
    from skinml.training import TrainingResult


def split_name(config: Config) -> str:
    """The protocol and all that its split depends on.

    Such as "paper test=0.15 val=0.2 near=together seed=0".
    """
    if config.protocol == "challenge":
        return "challenge"
    # Runs of before this was a choice kept identical images together, under this name.
    kept = "" if config.near_duplicates == "identical" else f"near={config.near_duplicates} "
    return (
        f"paper test={config.test_fraction:g} val={config.validation_fraction:g} {kept}"
        f"seed={config.split_seed}"
    )


def split_of(config: Config) -> tuple[str, float, float, int, str]:
    """What `assign_parts` takes of a configuration, in its order."""
    fractions = config.test_fraction, config.validation_fraction
    return (config.protocol, *fractions, config.split_seed, config.near_duplicates)


def is_official(config: Config, data: PreparedSet) -> bool:
    """Whether a score is the challenge's own: its parts, its data set, complete."""
    counts = data.part_counts(data.official_parts)
    complete = all(
        tuple(counts[official.part].values()) == official.counts for official in OFFICIAL_PARTS
    )
    return config.protocol == "challenge" and config.data == "isic2017" and complete


def identity(config: Config, data_digest: str) -> dict[str, str]:
    """The tags that say what a run repeats: two runs that share all of them are repetitions."""
    return {
        "config_digest": config.digest(weights_digest(config.weights)),
        "data_digest": data_digest,
        "code_digest": code_digest(),
    }


def describe_run(
    config: Config,
    data: PreparedSet,
    parts: np.ndarray,
    device: Device,
    execution: Execution = PLAIN,
) -> Description:
    """What is known of a run before it trains: its parameters, tags and data set."""
    resolved = config.resolved()
    commit, clean = git_state()
    digests = identity(config, data.digest)
    given = {name: str(value) for name, value in config.as_dict().items()}
    effective = {
        f"effective_{option.name}": str(getattr(resolved, option.name))
        for option in fields(Config)
        if getattr(resolved, option.name) != getattr(config, option.name)
    } | {
        f"effective_{name}": str(value)
        for name, value in execution._asdict().items()
        if getattr(config, name) == AUTO
    }
    counts = data.part_counts(parts)
    part_of = dict(zip(data.image_ids, parts, strict=True))
    across = sum(len({part_of[image_id] for image_id in group}) > 1 for group in data.duplicates)
    params = (
        given
        | effective
        | {
            "device_kind": device.kind,
            "device_name": device.name,
            "device_threads": str(device.threads),
            "keras_backend": device.backend,
            "git_commit": commit,
            "git_clean": clean,
            **digests,
            "weights_digest": weights_digest(config.weights) or config.weights,
            "duplicate_groups": str(len(data.duplicates)),
            "duplicate_groups_across_parts": str(across),
            "near_duplicate_groups": str(len(data.near_duplicates)),
            "test_images_seen_in_training": str(images_seen_in_training(data, parts)),
            **{f"version_{name}": version for name, version in library_versions().items()},
            **{f"images_{part}": str(sum(counts[part].values())) for part in PARTS},
        }
    )
    tags = {
        "kind": "training",
        "model": config.model,
        "batch_size": str(config.batch_size),
        "seed": str(config.seed),
        "data": config.data,
        "protocol": config.protocol,
        "split": split_name(config),
        "weights_kind": weights_kind(config.weights),
        **digests,
        "challenge_score": "official" if is_official(config, data) else "unofficial",
        "demo": str(config.data == "demo").lower(),
    }
    dataset = {
        "name": config.data,
        "digest": data.digest,
        "source": data.folder.name,
        "counts": {"protocol": split_name(config), **counts},
    }
    name = f"{config.model}-{config.batch_size}-seed{config.seed}"
    return Description(name, params, tags, dataset)


def run(
    config: Config, offline: bool = False, yes: bool = False, drain_limit: float | None = None
) -> RunFolder:
    """Train, evaluate and track one configuration; returns the finished run folder.

    Everything goes into the folder's journal, and from there to MLflow, which this process does not
    import: it may be away at any time, at the end for `drain_limit` seconds (see `track`).
    With `offline` nothing is sent: `python -m skinml.sync` publishes the folder later. With `yes`
    data that is missing is downloaded without asking. A `UserError` is raised before anything is
    made where the configuration, data or device cannot work.
    """
    from skinml import backend

    resolved = config.resolved()
    check_weights(config.weights)
    data = open_data(config.data, config.data_dir, yes=yes)
    parts = assign_parts(data, *split_of(config))
    device = backend.configure(config.device, config.threads, config.seed)
    execution = backend.choose_execution(
        device,
        data.images.nbytes,
        config.precision,
        config.xla,
        config.steps_per_execution,
        config.images_on_device,
    )
    description = describe_run(config, data, parts, device, execution)
    folder = RunFolder.create(Path(config.output_dir).expanduser(), config)
    folder.write_description(description)
    print(
        f"skinml: {description.name} on {data.folder.name} ({split_name(config)}), "
        f"{device.name} ({device.kind}, {device.threads} threads), in {config.output_dir}/"
        f"{folder.path.name}",
        file=sys.stderr,
    )
    for line in duplicates_warning(data):
        print(f"skinml: {line}", file=sys.stderr)

    with _tracked(folder, description, offline, drain_limit) as tracked:

        def on_epoch(row: Row) -> None:
            tracked.log_epoch(row)
            folder.append_epoch(row)
            if not sys.stderr.isatty():
                print(_epoch_line(row, resolved), file=sys.stderr, flush=True)

        trained = _train(resolved, data, parts, on_epoch, execution, tracked.raise_if_refused)
        _evaluate(folder, resolved, description, data, parts, *trained)
        tracked.log_results(config.register)
    if tracked.forwarder and folder.published:
        uris = tracked.forwarder.state()["uris"]
        models = f", model {uris['model']}, serving model {uris['serving']}" if uris else ""
        print(f"run {folder.published}{models}")
    _show(folder.read_text("note.md"))
    return folder


@contextlib.contextmanager
def _tracked(
    folder: RunFolder, description: Description, offline: bool, drain_limit: float | None
) -> Iterator[Tracked]:
    with track(folder, description, offline, drain_limit) as tracked:
        try:
            yield tracked
        except OSError as error:
            stop_no_more()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"{error.filename or folder.path}: {error.strerror}; free some space. What was "
                "noted before is complete"
            ) from None
        except BaseException:
            stop_no_more()
            raise


def _train(
    config: Config,
    data: PreparedSet,
    parts: np.ndarray,
    on_epoch: Callable[[Row], None],
    execution: Execution,
    before: Callable[[], None],
) -> "tuple[Classifier, TrainingResult, float]":
    """Train a network from its initial weights; `before` is called when it is there, untrained."""
    from skinml.models.classifier import build_classifier, in_float32
    from skinml.training import TrainingData, train

    classifier = build_classifier(config, len(CLASSES))
    rows = {part: np.flatnonzero(parts == part) for part in ("train", "validation")}
    training_data = TrainingData(
        data.images, data.labels, rows["train"], rows["validation"], data.digest
    )
    before()
    started = time.perf_counter()
    result = train(classifier, config, training_data, epoch_metrics, on_epoch, execution)
    seconds = time.perf_counter() - started
    # What is evaluated, saved and loaded elsewhere, where half precision may be slow.
    return in_float32(classifier, config), result, seconds


def _evaluate(
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
    from skinml.backend import compiled_call
    from skinml.evaluation.figures import FigureData, draw_figures
    from skinml.evaluation.predict import measure_latency, predict_part

    metrics: dict[str, float] = {}
    tables = {}
    for part, prefix in (("validation", "val"), ("test", "test")):
        rows = np.flatnonzero(parts == part)
        table = predict_part(classifier.model, data, rows, part)
        write_predictions(table, folder.predictions(part))
        metrics |= {f"{prefix}_{name}": value for name, value in point_metrics(table).items()}
        for name, (low, high) in bootstrap_intervals(table).items():
            metrics |= {f"{prefix}_{name}_ci_low": low, f"{prefix}_{name}_ci_high": high}
        tables[part] = table
    latency = measure_latency(compiled_call(classifier.model), data.images[:1])
    classifier.model.save(folder.model)
    row = BACKBONES[config.model]
    metrics |= {
        "parameters_millions": classifier.model.count_params() / 1e6,
        "model_size_mb": folder.model.stat().st_size / 1e6,
        "published_parameters_millions": row.published_parameters,
        "published_size_mb": row.published_size,
        "latency_ms": latency.median,
        "latency_ms_q25": latency.low,
        "latency_ms_q75": latency.high,
        "training_seconds": seconds,
        "best_epoch": result.best_epoch,
        "frozen_backbone_images": result.backbone_images,
    }
    folder.write_metrics(metrics)
    test = tables["test"]
    rows = np.flatnonzero(parts == "test")
    title = (
        f"{config.model}, batch size {config.batch_size}, seed {config.seed}\n"
        f"{config.data}, {config.protocol} protocol"
    )
    draw_figures(
        FigureData(
            title,
            test,
            folder.read_history(),
            result.best_epoch,
            lambda indices: data.images[rows[indices]],
        ),
        folder.figures,
    )
    folder.write_text("classification_report.txt", _report(test))
    folder.write_text("model_summary.txt", _summary(classifier))
    folder.write_text("note.md", _note(config, description, metrics))
    folder.finish()


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


def _show(note: str) -> None:
    """Print Markdown: laid out for a terminal, as it is into a pipe or file."""
    if not sys.stdout.isatty():
        print(note)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(note))


def _note(config: Config, description: Description, metrics: dict[str, float]) -> str:
    """The page of a run for a person, in Markdown: its figures with their intervals."""
    demo = config.data == "demo"
    lines = [
        f"**{config.model}**, batch size {config.batch_size}, seed {config.seed}, "
        f"{config.data}, {description.tags['split']}, "
        f"{description.tags['weights_kind']} initial weights, "
        f"{config.epochs_frozen} + {config.epochs_finetune} epochs",
        "",
        "| test metric | value | 95 % interval |",
        "| --- | --- | --- |",
    ]
    for name in HEADLINE:
        low, high = (metrics.get(f"test_{name}_ci_{end}", math.nan) for end in ("low", "high"))
        lines.append(f"| {name} | {metrics[f'test_{name}']:.4f} | {low:.4f} to {high:.4f} |")
    lines += [
        "",
        f"The AUCs of the challenge are {description.tags['challenge_score']} here. The intervals "
        "are over test images alone (bootstrap, 2,000 resamples); other seeds move the "
        "figures too. Kept epoch: "
        f"{metrics['best_epoch']:.0f} (best validation {config.monitor}). "
        f"{metrics['parameters_millions']:.2f} M parameters, {metrics['latency_ms']:.0f} ms an "
        f"image on {description.params['device_name']} "
        f"({description.params['device_threads']} threads).",
        "",
    ]
    if demo:
        lines += ["**Generated demo images: these figures say nothing about skin lesions.**", ""]
    return "\n".join([*lines, NOTICE, ""])


def _epoch_line(row: Row, config: Config) -> str:
    epochs = int(config.epochs_frozen) + int(config.epochs_finetune)
    return (
        f"epoch {row['epoch']}/{epochs} ({row['step']}): train loss {row['train_loss']:.3f}, "
        f"validation loss {row['val_loss']:.3f}, accuracy {row['val_accuracy']:.3f}, macro AUC "
        f"{row['val_auc_macro']:.3f}, {row['seconds']:.1f} s"
    )
