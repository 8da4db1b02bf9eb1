"""What a run says to a person, on a terminal or in a log."""

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from skinml.base.progress import duration, make_console
from skinml.config import Config
from skinml.run.description import Setup
from skinml.run.tracked import Tracked
from skinml.tracking.find import run_ids
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.record import default_experiment
from skinml.training.history import Row

# Seconds between two words of the features that the frozen step computes.
FEATURES_INTERVAL = 30.0


def run_name(folder: RunFolder) -> str:
    """What a run is called on a command line: its MLflow id, else its folder."""
    return next(iter(run_ids(folder)), str(folder.path))


def announce(folder: RunFolder, description: Description, setup: Setup) -> None:
    device = setup.device
    print(
        f"skinml: {description.name} on {setup.data.folder.name} ({description.tags['split']}), "
        f"{device.name} ({device.kind}, {device.threads} threads), in {shown_path(folder.path)}",
        file=sys.stderr,
    )


def features_teller(tracked: Tracked) -> Callable[[int, int], None]:
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


def tell_results(folder: RunFolder, tracked: Tracked) -> None:
    """Say what a person wants to know of a finished run: its figures, its models, what is next."""
    _show(folder.read_text("note.md"))
    told: dict[str, str] = {}
    if tracked.forwarder is None:
        told = {"publish": f"python -m skinml.sync {typed_path(folder.path)}"}
    elif folder.published:
        told, uris = {"run": folder.published}, tracked.forwarder.state().uris
        if "model" in uris:
            told |= {"model": uris["model"], "serving model": uris["serving"]}
            told |= {"try it": f"python -m skinml.predict {uris['model']} PICTURE.jpg"}
        told |= {"compare": _compare_command(folder.read_description())}
        told |= {"results": uris["results"]} if "results" in uris else {}
    print("", *(f"{name:<13}  {text}" for name, text in told.items()), sep="\n")


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


def tell_how_to_go_on(folder: RunFolder, offline: bool = False) -> None:
    # By its id alone it is looked for where runs lie unless told otherwise.
    found = folder.path.is_relative_to(Path(Config().output_dir).resolve())
    name = shlex.quote(run_name(folder)) if found else typed_path(folder.path)
    how = " --offline" * offline  # Else it would be sent, of which it was told to send nothing.
    print(f"skinml: go on with: python -m skinml.run --resume {name}{how}", file=sys.stderr)


def shown_path(path: Path) -> str:
    """A path as a person who is in the working folder would write it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def typed_path(path: Path) -> str:
    """A path as a command takes it, whatever signs are in it."""
    return shlex.quote(shown_path(path))


def _show(note: str) -> None:
    """Print Markdown: laid out for a terminal, as it is into a pipe or file."""
    if not sys.stdout.isatty():
        print(note)
        return
    from rich.markdown import Markdown

    make_console(sys.stdout).print(Markdown(note))


def epoch_line(row: Row, config: Config) -> str:
    epochs = int(config.epochs_frozen) + int(config.epochs_finetune)
    return (
        f"epoch {row['epoch']}/{epochs} ({row['step']}): train loss {row['train_loss']:.3f}, "
        f"validation loss {row['val_loss']:.3f}, accuracy {row['val_accuracy']:.3f}, macro AUC "
        f"{row['val_auc_macro']:.3f}, {row['seconds']:.1f} s"
    )
