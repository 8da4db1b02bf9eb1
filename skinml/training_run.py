"""One run, end to end: the one place where data, models, training, evaluation and tracking meet."""

import contextlib
import errno
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skinml.backend import PLAIN, Device, Execution
from skinml.checkpoint import (
    Checkpoint,
    has_checkpoint,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from skinml.code_digest import evaluation_digest, trained_by, training_digest, why_same
from skinml.config import AUTO, Config, config_from_strings
from skinml.data.isic2017 import CLASSES, NOTICE, OFFICIAL_PARTS, PARTS
from skinml.data.prepare import duplicates_warning, open_data
from skinml.data.prepared import PreparedSet
from skinml.data.protocols import assign_parts, images_seen_in_training
from skinml.errors import UserError
from skinml.evaluation.metrics import HEADLINE, epoch_metrics
from skinml.evaluation.operating_point import SENSITIVITY
from skinml.evaluation.predictions import Predictions, write_predictions
from skinml.evaluation.results import PREFIXES, evaluate_tables
from skinml.history import Row
from skinml.models.backbones import BACKBONES
from skinml.models.weights import check_weights, weights_digest, weights_kind
from skinml.processes import stop_no_more
from skinml.progress import duration, make_console
from skinml.provenance import git_state, library_versions
from skinml.tracking.find import run_ids
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.journal import is_written
from skinml.tracking.record import Noted, default_experiment, read_noted
from skinml.tracking.track import Tracked, check_settings, track

# Seconds between two words of the features that the frozen step computes.
FEATURES_INTERVAL = 30.0

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
        "training_digest": training_digest(config.model),
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
            **_device_params(device),
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


def _device_params(device: Device) -> dict[str, str]:
    return {
        "device_kind": device.kind,
        "device_name": device.name,
        "device_threads": str(device.threads),
        "keras_backend": device.backend,
    }


class _Setup(NamedTuple):
    """What a training needs on this machine, and what of it decides the result to the last bit."""

    data: PreparedSet
    parts: np.ndarray
    device: Device
    execution: Execution
    surroundings: dict[str, str]


def _set_up(config: Config, yes: bool) -> _Setup:
    from skinml import backend

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
    surroundings = {
        "data_digest": data.digest,
        "training_digest": training_digest(config.model),
        **_device_params(device),
        "precision": execution.precision,
        "xla": str(execution.xla).lower(),
        **{f"version_{name}": version for name, version in library_versions().items()},
    }
    return _Setup(data, parts, device, execution, surroundings)


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
    config.resolved()
    check_settings(offline)
    check_weights(config.weights)
    setup = _set_up(config, yes)
    description = describe_run(config, setup.data, setup.parts, setup.device, setup.execution)
    folder = RunFolder.create(Path(config.output_dir).expanduser(), config)
    folder.write_description(description)
    _announce(folder, description, setup)
    for line in duplicates_warning(setup.data):
        print(f"skinml: {line}", file=sys.stderr)
    with _tracked(folder, description, offline, drain_limit) as tracked:
        _train_and_evaluate(tracked, config, description, setup, None)
    return _done(folder, tracked)


def resume(
    folder: RunFolder,
    given: dict[str, object],
    offline: bool = False,
    yes: bool = False,
    drain_limit: float | None = None,
) -> RunFolder:
    """Go on with a run that was stopped or killed, from its last checkpoint; returns its folder.

    The configuration is that of the checkpoint. What is `given` (parameter → value) and differs
    from it, other data, code, backend, kind of device or precision, a run that is going on: each
    a `UserError`. Other hardware, threads or versions are warned of: the last bits may differ then.
    A run without a checkpoint starts over, within the same MLflow run; of a finished one nothing is
    done. The others are as for `run`.
    """
    if folder.journal.exists() and is_written(folder.journal):
        raise UserError(f"{folder.path}: its run goes on; expected one that was stopped or killed")
    known = read_noted(folder.journal)
    description = folder.read_description()
    name = _name(folder)
    if known.ended == "FINISHED":
        rest = "there is nothing to do"
        if not (offline or folder.published):
            rest = f"send what MLflow lacks of it with: python -m skinml.sync {_shown(folder.path)}"
        print(f"skinml: run {name} is finished: {rest}", file=sys.stderr)
        return folder
    check_settings(offline)
    checkpoint = load_checkpoint(folder.path)
    config = _config_of(description, checkpoint)
    _refuse_other_values(name, config, given)
    if folder.finished:  # Killed while it noted its results.
        with _tracked(folder, description, offline, drain_limit, known) as tracked:
            _note_results(tracked, config)
        return _done(folder, tracked)
    if checkpoint is None:
        check_weights(config.weights)
    setup = _set_up(config, yes)
    now = dict(setup.surroundings)
    if checkpoint is None:
        now["weights_digest"] = weights_digest(config.weights) or config.weights
    then = _with_digest(_started_with(description, checkpoint), config.model)
    differs = _differences(name, now, then)
    _announce(folder, description, setup)
    reached = f"after epoch {checkpoint.epoch}" if checkpoint else "from the start: no checkpoint"
    print(f"skinml: run {name} goes on {reached}", file=sys.stderr)
    if differs:
        print(
            f"skinml: warning: {differs}; what follows may differ in its last bits from a run that "
            "was not interrupted",
            file=sys.stderr,
        )
    with _tracked(folder, description, offline, drain_limit, known) as tracked:
        if differs:
            tracked.note_tags({RESUMED_WITH: differs})
        _train_and_evaluate(tracked, config, description, setup, checkpoint)
    return _done(folder, tracked)


# The tag of a run that was gone on with where its last bits may differ: how.
RESUMED_WITH = "skinml.resumed_with"

# Of the surroundings these make another result; others may change its last bits.
_DECISIVE = (
    *("data_digest", "training_digest", "weights_digest"),
    *("keras_backend", "device_kind", "precision", "xla"),
)


def _config_of(description: Description, checkpoint: Checkpoint | None) -> Config:
    """The configuration that a run was started with."""
    values = checkpoint.config if checkpoint else description.params
    names = {option.name for option in fields(Config)} & values.keys()
    return config_from_strings({name: str(values[name]) for name in names})


def _refuse_other_values(name: str, config: Config, given: dict[str, object]) -> None:
    """Refuse what is given and is not what the run was started with, by name."""
    resolved = config.resolved()
    problems = [
        f"{option}={value}: run {name} was started with {getattr(config, option)}"
        for option, value in given.items()
        if value not in (getattr(config, option), getattr(resolved, option))
    ]
    if problems:
        raise UserError(f"{'; '.join(problems)}; leave it out to go on, or start a new run")


def _started_with(description: Description, checkpoint: Checkpoint | None) -> dict[str, str]:
    """The surroundings that a run was started with, as far as they are known."""
    if checkpoint:
        return checkpoint.surroundings
    params = description.params
    return params | {
        name: params.get(f"effective_{name}", params[name]).lower() for name in ("precision", "xla")
    }


def _with_digest(then: dict[str, str], model: str) -> dict[str, str]:
    """Earlier surroundings, their training code named as today's where it counts as the same."""
    earlier = trained_by(then)
    reason = why_same(earlier, model)
    if reason:
        print(f"skinml: the training code {earlier} counts as today's: {reason}", file=sys.stderr)
    return then | {"training_digest": earlier if reason is None else training_digest(model)}


def _differences(name: str, now: dict[str, str], then: dict[str, str]) -> str:
    """What differs from the surroundings a run was started with; a `UserError` if it decides."""
    differing = {key: value for key, value in now.items() if key in then and then[key] != value}
    decisive = [
        f"{key}={value}: run {name} was started with {then[key]}"
        for key, value in differing.items()
        if key in _DECISIVE
    ]
    if decisive:
        raise UserError(
            f"{'; '.join(decisive)}; expected the same (its parameters name it): go "
            "on there, or start a new run"
        )
    return ", ".join(f"{key} {value} instead of {then[key]}" for key, value in differing.items())


def _name(folder: RunFolder) -> str:
    """What a run is called on a command line: its MLflow id, else its folder."""
    return next(iter(run_ids(folder)), str(folder.path))


def _announce(folder: RunFolder, description: Description, setup: _Setup) -> None:
    device = setup.device
    print(
        f"skinml: {description.name} on {setup.data.folder.name} ({description.tags['split']}), "
        f"{device.name} ({device.kind}, {device.threads} threads), in {_shown(folder.path)}",
        file=sys.stderr,
    )


def _train_and_evaluate(
    tracked: Tracked,
    config: Config,
    description: Description,
    setup: _Setup,
    checkpoint: Checkpoint | None,
) -> None:
    """Train from a checkpoint, or from the start, evaluate, and note the results."""
    folder, resolved = tracked.folder, config.resolved()

    def on_epoch(row: Row) -> None:
        row = tracked.log_epoch(row)
        folder.append_epoch(row)
        if not sys.stderr.isatty():
            print(_epoch_line(row, resolved), file=sys.stderr, flush=True)

    def save(state: Checkpoint) -> None:
        whole = replace(state, config=config.as_dict(), surroundings=setup.surroundings)
        save_checkpoint(folder.path, whole)

    # What was killed between a checkpoint and its epoch's curves is made up for here.
    history = [tracked.log_epoch(row) for row in checkpoint.history] if checkpoint else []
    folder.write_history(history)
    before = tracked.raise_if_refused
    on_features = _features_teller(tracked)
    trained = _train(resolved, setup, on_epoch, before, checkpoint, save, on_features)
    _evaluate(folder, resolved, description, setup.data, setup.parts, *trained)
    # Not with the other digests, at the start: a run may go on under a later evaluation.
    tracked.note_tags({"evaluation_digest": evaluation_digest()})
    _note_results(tracked, config)


def _features_teller(tracked: Tracked) -> Callable[[int, int], None]:
    """Tells of the frozen step's features, twice a minute: the journal, and a log without a bar.

    They may take an hour, in which nothing else shows how far a run is.
    """
    begun: tuple[float, int] | None = None
    told = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal begun, told
        now = time.monotonic()
        if begun and now - told < FEATURES_INTERVAL and done < total:
            return
        tracked.log_features(done)
        begun, told = begun or (now, done), now
        if done > begun[1] and not sys.stderr.isatty():
            left = duration((now - begun[0]) / (done - begun[1]) * (total - done))
            line = f"features: {done:,} of {total:,} images, {left} left"
            print(line, file=sys.stderr, flush=True)

    return tell


def _note_results(tracked: Tracked, config: Config) -> None:
    tracked.log_results(config.register)
    remove_checkpoints(tracked.folder.path)


def _done(folder: RunFolder, tracked: Tracked) -> RunFolder:
    """Say what a person wants to know of a finished run: its figures, its models, what is next."""
    _show(folder.read_text("note.md"))
    told: dict[str, str] = {}
    if tracked.forwarder is None:
        told = {"publish": f"python -m skinml.sync {_shown(folder.path)}"}
    elif folder.published:
        told, uris = {"run": folder.published}, tracked.forwarder.state().uris
        if "model" in uris:
            told |= {"model": uris["model"], "serving model": uris["serving"]}
            told |= {"try it": f"python -m skinml.predict {uris['model']} PICTURE.jpg"}
        told |= {"compare": _compare_command(folder.read_description())}
        told |= {"results": uris["results"]} if "results" in uris else {}
    print("", *(f"{name:<13}  {text}" for name, text in told.items()), sep="\n")
    return folder


def _compare_command(description: Description) -> str:
    """The command that holds a run against the others of its experiment."""
    command = "python -m skinml.compare --grid none"
    # Named where it is known: the shell that the command is typed into may not have the variable.
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "")
    if not name and not os.environ.get("MLFLOW_EXPERIMENT_ID"):
        name = default_experiment(description.tags["data"])
    if name in ("", default_experiment("isic2017")):
        return command
    return f"{command} --experiment {shlex.quote(name)}"


@contextlib.contextmanager
def _tracked(
    folder: RunFolder,
    description: Description,
    offline: bool,
    drain_limit: float | None,
    known: Noted | None = None,
) -> Iterator[Tracked]:
    begun = False
    try:
        with track(folder, description, offline, drain_limit, known=known) as tracked:
            begun = True
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
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        if begun and (stopped or has_checkpoint(folder.path)):
            _say_how_to_go_on(folder)
        raise


def _say_how_to_go_on(folder: RunFolder) -> None:
    # By its id alone it is looked for where runs lie unless told otherwise.
    found = folder.path.is_relative_to(Path(Config().output_dir).resolve())
    name = _name(folder) if found else _shown(folder.path)
    print(f"skinml: go on with: python -m skinml.run --resume {name}", file=sys.stderr)


def _shown(path: Path) -> str:
    """A path as a person who is in the working folder would write it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _train(
    config: Config,
    setup: _Setup,
    on_epoch: Callable[[Row], None],
    ready: Callable[[], None],
    checkpoint: Checkpoint | None,
    save: Callable[[Checkpoint], None],
    on_features: Callable[[int, int], None],
) -> "tuple[Classifier, TrainingResult, float]":
    """Train a network; `ready` is called when it is there, and its training about to begin.

    Returns with the network what it took: the seconds of all processes that trained it.
    """
    from skinml.models.classifier import build_classifier, in_float32
    from skinml.training import TrainingData, train

    # A checkpoint holds all weights: the file that the first ones came from may be gone.
    initial = replace(config, weights="none") if checkpoint else config
    classifier = build_classifier(initial, len(CLASSES))
    data = setup.data
    rows = {part: np.flatnonzero(setup.parts == part) for part in ("train", "validation")}
    training_data = TrainingData(
        data.images, data.labels, rows["train"], rows["validation"], data.digest
    )
    ready()
    earlier = checkpoint.seconds if checkpoint else 0.0
    started = time.perf_counter()

    def seconds() -> float:
        return earlier + time.perf_counter() - started

    result = train(
        classifier,
        config,
        training_data,
        epoch_metrics,
        on_epoch,
        setup.execution,
        checkpoint,
        lambda state: save(replace(state, seconds=seconds())),
        on_features,
    )
    # What is evaluated, saved and loaded elsewhere, where half precision may be slow.
    return in_float32(classifier, config), result, seconds()


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

    tables = {}
    for part in PREFIXES:
        tables[part] = predict_part(classifier.model, data, np.flatnonzero(parts == part), part)
        write_predictions(tables[part], folder.predictions(part))
    metrics = evaluate_tables(tables)
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
    folder.write_text("note.md", _note(config, description, metrics, test))
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
    from rich.markdown import Markdown

    make_console(sys.stdout).print(Markdown(note))


def _note(
    config: Config, description: Description, metrics: dict[str, float], test: Predictions
) -> str:
    """The page of a run for a person, in Markdown: its figures with their intervals."""
    demo = config.data == "demo"
    lines = [
        f"**{config.model}**, batch size {config.batch_size}, seed {config.seed}, "
        f"{config.data}, {description.tags['split']}, "
        f"{description.tags['weights_kind']} initial weights, "
        f"{config.epochs_frozen} + {config.epochs_finetune} epochs",
        "",
    ]
    if test.one_class:
        lines += [f"**This network {test.one_class}: it tells nothing apart.**", ""]
    counts = np.bincount(test.labels, minlength=len(test.classes))
    commonest = test.classes[int(counts.argmax())].replace("_", " ")
    lines += ["| test metric | value | 95 % interval |", "| --- | --- | --- |"]
    for name in HEADLINE:
        low, high = (metrics.get(f"test_{name}_ci_{end}", math.nan) for end in ("low", "high"))
        ends = f"{low:.4f} to {high:.4f}" if math.isfinite(low) else "too few images"
        lines.append(f"| {name} | {metrics[f'test_{name}']:.4f} | {ends} |")
        if name == "accuracy":
            share = counts.max() / len(test.labels)
            lines.append(f"| … of always answering “{commonest}” | {share:.4f} | |")
    highest, threshold = "its score is the highest", metrics["melanoma_threshold"]
    answers = [(name, highest, name) for name in test.classes]
    if not math.isnan(threshold):
        answers.append(
            ("melanoma", f"its score is {threshold:.4f} or more", "melanoma_at_threshold")
        )
    lines += ["", "| answer | given where | sensitivity | specificity |"]
    lines += ["| --- | --- | --- | --- |"]
    for name, where, metric in answers:
        rates = [metrics[f"test_{rate}_{metric}"] for rate in ("sensitivity", "specificity")]
        texts = ["–" if math.isnan(rate) else f"{rate:.4f}" for rate in rates]
        lines.append(f"| {' | '.join([name.replace('_', ' '), where, *texts])} |")
    lines += [
        "",
        "Sensitivity is the share of a class's images that get its answer, specificity the share "
        "of the other images that do not.",
    ]
    if not math.isnan(threshold):
        lines[-1] += (
            f" {threshold:.4f} is the highest threshold that finds at least "
            f"{SENSITIVITY * 100:.0f} % of the melanomas among the validation images: the lowest "
            "sensitivity that the ISIC 2017 challenge looked at."
        )
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
