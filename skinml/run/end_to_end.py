"""One run, end to end: the one place where data, models, training, evaluation and tracking meet."""

import contextlib
import errno
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from skinml.base.errors import UserError, say_stopped
from skinml.base.files import at_home
from skinml.base.signals import stop_no_more
from skinml.config import Config
from skinml.data.datasets import thresholds_note
from skinml.data.prepare import duplicates_warning
from skinml.data.protocols import own_parts_warning
from skinml.evaluation.metrics import epoch_metrics
from skinml.evaluation.operating_point import read_rule
from skinml.models.weights import check_weights, weights_digest
from skinml.run.description import Setup, describe_run, set_up
from skinml.run.messages import (
    announce,
    epoch_line,
    features_teller,
    run_name,
    tell_how_to_go_on,
    tell_results,
    typed_path,
)
from skinml.run.results import evaluate
from skinml.run.resumption import (
    RESUMED_WITH,
    config_of,
    differences,
    refuse_another_meaning,
    refuse_other_values,
    started_with,
    with_todays_digest,
)
from skinml.run.tracked import Tracked, check_settings, track
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.journal import is_written
from skinml.tracking.record import Noted, read_noted
from skinml.training.checkpoint import (
    Checkpoint,
    has_checkpoint,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from skinml.training.code_digest import evaluation_digest
from skinml.training.history import Row

if TYPE_CHECKING:
    from skinml.models.classifier import Classifier
    from skinml.training.loop import TrainingResult


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
    read_rule(config.operating_point)
    setup = set_up(config, yes)
    description = describe_run(config, setup.data, setup.parts, setup.device, setup.execution)
    folder = _begin_folder(config, description)
    announce(folder, description, setup)
    warnings = [*duplicates_warning(setup.data), *thresholds_note(setup.data.classes)]
    if config.protocol == "paper":
        warnings += own_parts_warning(config.data, setup.data.official_parts)
    for line in warnings:
        print(f"skinml: {line}", file=sys.stderr)
    with _tracked(folder, description, offline, drain_limit) as tracked:
        _train_and_evaluate(tracked, config, description, setup, None)
    tell_results(folder, tracked)
    return folder


def _begin_folder(config: Config, description: Description) -> RunFolder:
    """A new folder that says what its run is; none is left on a disk that does not take that."""
    folder = RunFolder.create(at_home(config.output_dir, "output_dir="), config)
    try:
        folder.write_description(description)
    except OSError as error:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise UserError(
            f"output_dir={config.output_dir}: the run's folder cannot be written there "
            f"({error.strerror}); expected a disk with some space: free some, or name another place"
        ) from None
    return folder


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
    name = run_name(folder)
    if known.ended == "FINISHED":
        rest = "there is nothing to do"
        if not (offline or folder.published):
            where = typed_path(folder.path)
            rest = f"send what MLflow lacks of it with: python -m skinml.sync {where}"
        print(f"skinml: run {name} is finished: {rest}", file=sys.stderr)
        return folder
    check_settings(offline)
    checkpoint = load_checkpoint(folder.path)
    config = config_of(description, checkpoint)
    refuse_other_values(name, config, given)
    if folder.finished:  # Killed while it noted its results.
        with _tracked(folder, description, offline, drain_limit, known) as tracked:
            _note_results(tracked, config)
        tell_results(folder, tracked)
        return folder
    refuse_another_meaning(name, config, description)
    if checkpoint is None:
        check_weights(config.weights)
    setup = set_up(config, yes)
    now = dict(setup.surroundings)
    if checkpoint is None:
        now["weights_digest"] = weights_digest(config.weights) or config.weights
    then = with_todays_digest(started_with(description, checkpoint), config.model)
    differs = differences(name, now, then)
    announce(folder, description, setup)
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
    tell_results(folder, tracked)
    return folder


def _train_and_evaluate(
    tracked: Tracked,
    config: Config,
    description: Description,
    setup: Setup,
    checkpoint: Checkpoint | None,
) -> None:
    """Train from a checkpoint, or from the start, evaluate, and note the results."""
    folder, resolved = tracked.folder, config.resolved()

    def on_epoch(row: Row) -> None:
        row = tracked.log_epoch(row)
        folder.append_epoch(row)
        if not sys.stderr.isatty():
            print(epoch_line(row, resolved), file=sys.stderr, flush=True)

    def save(state: Checkpoint) -> None:
        whole = replace(state, config=config.as_dict(), surroundings=setup.surroundings)
        save_checkpoint(folder.path, whole)

    # What was killed between a checkpoint and its epoch's curves is made up for here.
    history = [tracked.log_epoch(row) for row in checkpoint.history] if checkpoint else []
    folder.write_history(history)
    before = tracked.raise_if_refused
    on_features = features_teller(tracked)
    trained = _train(resolved, setup, on_epoch, before, checkpoint, save, on_features)
    evaluate(folder, resolved, description, setup.data, setup.parts, *trained)
    # Not with the other digests, at the start: a run may go on under a later evaluation.
    tracked.note_tags({"evaluation_digest": evaluation_digest()})
    _note_results(tracked, config)


def _note_results(tracked: Tracked, config: Config) -> None:
    tracked.log_results(config.register)
    remove_checkpoints(tracked.folder.path)


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
            except BaseException as error:
                stop_no_more()
                if isinstance(error, KeyboardInterrupt):
                    say_stopped(error)  # What is sent to MLflow now takes seconds.
                raise
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        if begun and (stopped or has_checkpoint(folder.path)):
            tell_how_to_go_on(folder, offline)
        raise


def _train(
    config: Config,
    setup: Setup,
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
    from skinml.training.inputs import TrainingData
    from skinml.training.loop import train

    # A checkpoint holds all weights: the file that the first ones came from may be gone.
    initial = replace(config, weights="none") if checkpoint else config
    classifier = build_classifier(initial, len(setup.data.classes))
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
