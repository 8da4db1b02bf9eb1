"""One frozen `Config`: every parameter of a run and its default, once.

The command line, MLproject and the parameters that MLflow shows all derive from it. One file, most
of it the table of these parameters: whoever looks for one, or adds one, looks here alone.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NoReturn

from skinml.backbones import BACKBONES
from skinml.base.errors import UserError, did_you_mean

AUTO = "auto"

# What splits the images where the official parts do not.
_SPLIT = ("test_fraction", "validation_fraction", "split_seed", "near_duplicates")

RECIPES: dict[str, dict[str, Any]] = {
    "paper": {
        "head": "three",
        "finetune_layers": "all",
        "epochs_finetune": 100,
        "learning_rate_finetune": 1e-4,
        "monitor": "auc_macro",
        "test_views": 1,
    },
    # Chosen by cross-validation on the official training and validation parts: results/recipe.
    "ours": {
        "head": "one",
        "finetune_layers": "last_stage",
        "epochs_finetune": 10,
        "learning_rate_finetune": 3e-5,
        "monitor": "last",
        "test_views": 8,
    },
}
"""What `auto` stands for, by recipe, in the fields that are named here."""

BEFORE: dict[str, Any] = {
    "head": "three",
    "finetune_layers": "all",
    "test_views": 1,
    "label_smoothing": 0.0,
    "mixup": 0.0,
    "focal": 0.0,
    "ema": 0.0,
}
"""What every run did until these were parameters: it is not in the digest of a configuration."""

FOLDERS = ("data_dir", "output_dir")
"""Where things lie on the machine that trained, which a reader's has elsewhere."""

# A field, its value, and the fields that then change nothing.
_WITHOUT_EFFECT: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("protocol", "challenge", _SPLIT),
    ("epochs_frozen", 0, ("learning_rate_frozen",)),
    (
        "epochs_finetune",
        0,
        ("learning_rate_finetune", "finetune_layers", "batch_norm", "images_on_device"),
    ),
    ("head", "one", ("dense_units", "dropout")),
    ("optimizer", "adam", ("weight_decay",)),
    ("optimizer", "sgd", ("weight_decay",)),
)


def is_path(data: str) -> bool:
    """Whether `data=` is the path of a person's own pictures: no name is spelled so."""
    return any(sign in data for sign in ("/", "\\")) or data.lower().endswith(".csv")


def _option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float = -math.inf,
    high: float = math.inf,
    decides: bool = True,
) -> Any:
    """A field of `Config`: its default, its help, what it accepts, whether it decides a result."""
    checks = {"help": help, "choices": choices, "low": low, "high": high, "decides": decides}
    return field(default=default, metadata=checks)


@dataclass(frozen=True)
class Config:
    """The parameters of one training run.

    "Paper" is Yilmaz et al., arXiv 2110.12270. Where it is silent, the default is ours and the
    field's help gives the reason. `auto` stands for a value that depends on the others;
    `resolved()` fills it in.
    """

    model: str = _option("mobilenetv2", "network to train", choices=tuple(BACKBONES))
    recipe: str = _option(
        "paper",
        "what auto stands for where it is no fact of the data, weights or device: paper as "
        "published, ours as chosen by cross-validation without the test part (results/recipe); "
        "each value can be given by itself",
        choices=tuple(RECIPES),
        decides=False,  # The values that it stands for do.
    )
    batch_size: int = _option(16, "images a step; the paper compares 16, 32 and 64", low=1)
    data: str = _option(
        "isic2017",
        "a data set by its name (isic2017, ham10000, isic2019, pad-ufes-20, or the generated "
        "demo), or your own pictures by their path: a folder with a subfolder for each class, or a "
        "CSV table (docs/data.md)",
    )
    data_dir: str = _option(
        AUTO,
        "folder of the official files or of a prepared set; auto is $SKINML_DATA_DIR, else the "
        "user's cache folder",
        decides=False,
    )
    protocol: str = _option(
        "paper",
        "paper pools all images and splits them stratified; challenge keeps the official parts",
        choices=("paper", "challenge"),
    )
    test_fraction: float = _option(
        0.15,
        "share of the images kept for the test (protocol paper): 0.15 is the paper's Table I, "
        "0.20 is what its published figures imply",
        low=0.01,
        high=0.9,
    )
    validation_fraction: float = _option(
        0.20, "share of the remaining images kept for validation: the paper's Table I",
        low=0.01, high=0.9,
    )  # fmt: skip
    split_seed: int = _option(0, "seed of the split alone (protocol paper)", low=0)
    near_duplicates: str = _option(
        "together",
        "images of one lesion, found by a perceptual hash (protocol paper): together keeps them in "
        "one part, identical only those with identical pixels, ignore draws every image by itself, "
        "as the paper's plain split does",
        choices=("together", "identical", "ignore"),
    )
    seed: int = _option(0, "seed of the training alone: initial weights, order, dropout", low=0)
    weights: str = _option("imagenet", "initial weights: imagenet, none (random) or a file")
    pooling: str = _option(
        "global",
        "global average pooling as in the paper's text, or 2x2 max pooling before it (Table I)",
        choices=("global", "2x2"),
    )
    head: str = _option(
        AUTO,
        "what follows the features: three dense layers as in the paper, or one, the softmax alone; "
        "auto is three (recipe paper) or one (ours)",
        choices=(AUTO, "three", "one"),
    )
    dense_units: str = _option(
        "256,128,64",
        "widths of the three dense layers; the paper gives none: halving from 256 keeps the head "
        "under a tenth of the smallest backbone's parameters",
    )
    dropout: float = _option(
        0.2, "dropout after each dense layer: the paper's Table I", low=0, high=0.95
    )
    epochs_frozen: int | str = _option(
        AUTO,
        "epochs with the backbone frozen; auto is 50 of the paper's 150 from pre-trained weights "
        "(the head has converged by then), 0 from random ones (a random backbone's features are "
        "not worth keeping)",
        low=0,
    )
    epochs_finetune: int | str = _option(
        AUTO,
        "epochs of fine-tuning; auto is 100 (recipe paper), 10 (ours), or 150 from random weights",
        low=0,
    )
    finetune_layers: str = _option(
        AUTO,
        "layers of the backbone that fine-tuning trains: all of them, or last_stage, those behind "
        "the last one whose features are larger than the network's own (7×7); auto is all "
        "(recipe paper, or from random weights) or last_stage (ours), in half the time "
        "as good as all layers on two folds of the cross-validation",
        choices=(AUTO, "all", "last_stage"),
    )
    optimizer: str = _option(
        "adamw",
        "Keras optimizer; AdamW is robust over all three networks without tuning each",
        choices=("adamw", "adam", "sgd"),
    )
    learning_rate_frozen: float = _option(
        1e-3, "peak learning rate of the frozen step: Adam's usual one for a fresh head",
        low=1e-12, high=10,
    )  # fmt: skip
    learning_rate_finetune: float | str = _option(
        AUTO,
        "peak learning rate of fine-tuning; auto is 1e-3 from random weights, else 1e-4 (recipe "
        "paper: of all layers, 4e-4 stalls with frozen batch normalisation, and 3e-5 ends at a "
        "higher validation loss after 8 epochs, measured) or 3e-5 (ours)",
        low=1e-12,
        high=10,
    )
    learning_rate_schedule: str = _option(
        "cosine",
        "cosine: linear warm-up over the first twentieth of a step's updates, then cosine decay "
        "to zero, so that the last epochs are the quiet ones; constant: the peak throughout",
        choices=("cosine", "constant"),
    )
    weight_decay: float = _option(
        1e-2, "decoupled weight decay (adamw only): its authors' default", low=0, high=1
    )
    augmentation: str = _option(
        "dihedral",
        "dihedral: the eight rotations and reflections of the square, as dermoscopy has no up or "
        "left; the paper does not say what it used; crops: in fine-tuning a part of the image in "
        "another light beside them, which took longer than ten epochs to pay",
        choices=("none", "dihedral", "crops"),
    )
    class_weights: str = _option(
        "none",
        "balanced weights a class by its inverse frequency; the paper mentions no weighting",
        choices=("none", "balanced"),
    )
    label_smoothing: float = _option(
        0.0,
        "share of a label that is spread over all classes (arXiv 1512.00567); 0.1 changed nothing "
        "in the cross-validation of heads",
        low=0,
        high=0.9,
    )
    mixup: float = _option(
        0.0,
        "parameter of the beta distribution by which two images of a batch are mixed "
        "(arXiv 1710.09412), 0 for none; 0.2 changed nothing in the cross-validation of heads",
        low=0,
        high=10,
    )
    focal: float = _option(
        0.0,
        "exponent of the focal loss (arXiv 1708.02002), 0 for cross-entropy; 2 changed nothing in "
        "the cross-validation of heads",
        low=0,
        high=10,
    )
    ema: float = _option(
        0.0,
        "momentum of a moving average of the weights, which is validated and kept in their place; "
        "it goes with batch_norm=frozen alone (findings/keras-ema-batch-norm). 0 for none, as 0.99 "
        "changed nothing in the cross-validation of heads",
        low=0,
        high=0.9999,
    )
    batch_norm: str = _option(
        AUTO,
        "batch normalisation while fine-tuning: frozen keeps its statistics, scale and shift, "
        "trained updates them with momentum 0.9; auto is frozen from pre-trained weights, trained "
        "from random ones",
        choices=(AUTO, "frozen", "trained"),
    )
    monitor: str = _option(
        AUTO,
        "epoch of each step that is kept: the best by a validation metric, or the last; auto is "
        "auc_macro (recipe paper), which needs no threshold and gives the rare classes their say, "
        "or last (ours), as it was cross-validated: a few images choose among few epochs by chance",
        choices=(AUTO, "auc_macro", "accuracy", "loss", "last"),
    )
    test_views: int | str = _option(
        AUTO,
        "symmetric views of an image whose scores the finished network averages, 1 or all 8, which "
        "take about 8 times as long; auto is 1 (recipe paper) or 8 (ours)",
        low=1,
        high=8,
    )
    operating_point: str = _option(
        "sensitivity:0.82",
        "threshold on the melanoma score that is reported first: sensitivity:NUMBER, "
        "specificity:NUMBER or youden, chosen on validation; 0.82 is the lowest sensitivity that "
        "the ISIC 2017 challenge looked at",
        decides=False,
    )
    device: str = _option(
        AUTO, "where to train; gpu without one is an error", choices=(AUTO, "gpu", "cpu")
    )
    threads: int = _option(
        0, "CPU threads of the framework, 0 for every core; part of what makes a CPU run repeat",
        low=0,
    )  # fmt: skip
    precision: str = _option(
        AUTO,
        "what a step computes in, its weights being float32 in any case; auto is half precision on "
        "a GPU that has tensor cores, float32 elsewhere",
        choices=(AUTO, "float32", "mixed_float16", "mixed_bfloat16"),
    )
    xla: str = _option(
        AUTO,
        "compile a step with XLA; auto does so on a GPU (on a CPU it is several times slower)",
        choices=(AUTO, "true", "false"),
    )
    steps_per_execution: int | str = _option(
        AUTO,
        "steps in one call of the framework; auto is 8 on a GPU, whose steps are shorter than what "
        "Python does between them, else 1",
        low=1,
        high=1000,
        decides=False,
    )
    images_on_device: str = _option(
        AUTO,
        "keep the images in the device's memory and augment them there; auto does so on a GPU "
        "where they take at most a quarter of what is free, with neither crops nor mixup",
        choices=(AUTO, "true", "false"),
        decides=False,
    )
    register: bool = _option(True, "register the trained models", decides=False)
    export: bool = _option(
        True, "write the network to a file too that predict asks without TensorFlow", decides=False
    )
    output_dir: str = _option(
        "runs", "folder that receives the run's own folder with all it produced", decides=False
    )

    def __post_init__(self) -> None:
        problems = [problem for option in fields(self) if (problem := self._problem(option))]
        if problems:
            raise UserError("; ".join(problems))

    def _problem(self, option: dataclasses.Field[Any]) -> str | None:
        value, checks = getattr(self, option.name), option.metadata
        if checks["choices"] and value not in checks["choices"]:
            choices = checks["choices"]
            near = did_you_mean(str(value), choices)
            return f"{option.name}={value!r}: expected one of {', '.join(choices)}{near}"
        if option.type in (int | str, float | str) and isinstance(value, str) and value != AUTO:
            return f"{option.name}={value!r}: expected a number or auto"
        if isinstance(value, float) and not math.isfinite(value):
            return f"{option.name}={value}: expected a finite number"
        if isinstance(value, int | float) and not checks["low"] <= value <= checks["high"]:
            bounds = " and ".join(
                f"{word} {checks[key]:g}"
                for key, word in (("low", "at least"), ("high", "at most"))
                if math.isfinite(checks[key])
            )
            return f"{option.name}={value}: expected {bounds}"
        if option.name == "test_views" and value not in (AUTO, 1, 8):
            return f"test_views={value}: expected 1 or 8"
        if option.name == "dense_units":
            try:
                units = [int(width) for width in value.split(",")]
            except ValueError:
                units = []
            if len(units) != 3 or min(units) < 1:
                return f"dense_units={value!r}: expected three widths, such as 256,128,64"
        return None

    @property
    def dense_widths(self) -> list[int]:
        return [int(width) for width in self.dense_units.split(",")]

    @property
    def pretrained(self) -> bool:
        return self.weights != "none"

    def resolved(self) -> "Config":
        """The same configuration with every `auto` that decides a result replaced by its value."""
        recipe: dict[str, Any] = RECIPES[self.recipe]
        pretrained: dict[str, Any] = {
            "epochs_frozen": 50,
            "batch_norm": "frozen",
        }
        # Whatever the recipe: it was chosen with pre-trained weights.
        random: dict[str, Any] = {
            "epochs_frozen": 0,
            "epochs_finetune": 150,
            "learning_rate_finetune": 1e-3,
            "batch_norm": "trained",
            "finetune_layers": "all",
        }
        values = pretrained | recipe if self.pretrained else recipe | random
        chosen = replace(
            self, **{name: value for name, value in values.items() if getattr(self, name) == AUTO}
        )
        if chosen.epochs_frozen == 0 and chosen.epochs_finetune == 0:
            raise UserError(
                "epochs_frozen=0 and epochs_finetune=0: expected at least one epoch in one of the "
                "two steps"
            )
        if chosen.ema and chosen.epochs_finetune and chosen.batch_norm == "trained":
            raise UserError(
                f"ema={chosen.ema:g}: with batch_norm=trained the averaged weights answer by the "
                "statistics of others, little better than by chance; expected batch_norm=frozen, "
                "or ema=0"
            )
        if chosen.augmentation != "crops" and not chosen.mixup:
            return chosen
        if chosen.images_on_device == "true":
            raise UserError(
                "images_on_device=true: a device makes the symmetries alone, and neither crops nor "
                "mixtures; expected auto or false with augmentation=crops or mixup"
            )
        return replace(chosen, images_on_device="false")

    def without_effect(self) -> dict[str, str]:
        """The parameters that are not at their default and change nothing, as another is as it is.

        Name → that other one, such as "protocol=challenge".
        """
        chosen = self.resolved()
        idle: dict[str, str] = {}
        for name, value, among in _WITHOUT_EFFECT:
            if getattr(chosen, name) == value:
                idle |= dict.fromkeys(among, f"{name}={value}")
        default = Config()
        return {n: r for n, r in idle.items() if getattr(self, n) != getattr(default, n)}

    def digest(self, weights_digest: str = "") -> str:
        """A digest of all that decides a result: two runs of one digest are repetitions.

        `weights_digest` stands for the content of a weights file, whose path says nothing.
        """
        chosen = self.resolved()
        decisive = {
            option.name: getattr(chosen, option.name)
            for option in fields(self)
            if option.metadata["decides"]
        }
        for name, value in BEFORE.items():
            if decisive[name] == value:
                del decisive[name]
        decisive["dense_units"] = chosen.dense_widths
        if is_path(self.data):
            # Wherever they lie: the digest of the data tells which they are.
            decisive["data"] = "own"
        if self.protocol == "challenge":
            for name in _SPLIT:
                del decisive[name]
        if weights_digest:
            decisive["weights"] = weights_digest
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def is_true(name: str, text: str) -> bool:
    """What a person's "true" or "False" means; anything else is a `UserError` that says `name`."""
    if text.lower() not in ("true", "false"):
        raise UserError(f"{name}={text!r}: expected true or false")
    return text.lower() == "true"


def _convert(option: dataclasses.Field[Any], text: str) -> Any:
    """The value of an option from its spelling on a command line."""
    if option.type is bool:
        return is_true(option.name, text)
    for kind, name in ((int, "a whole number"), (float, "a number")):
        if option.type is kind or option.type == kind | str:
            if text == AUTO and option.type != kind:
                return text
            try:
                return kind(text)
            except ValueError:
                auto = "" if option.type is kind else " or auto"
                raise UserError(f"{option.name}={text!r}: expected {name}{auto}") from None
    return text


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, as every error of skinml is, with a near word.

    It takes no abbreviations: `--seed` must not pass for `--seeds`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            name = next((word for word in unknown if word.startswith("-")), "").partition("=")[0]
            near = did_you_mean(name, self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
        return options

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = did_you_mean(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{error.message}{near}") from None

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def add_config_options(parser: argparse.ArgumentParser, exclude: tuple[str, ...] = ()) -> None:
    """Give a parser one option a field of `Config`: `--batch_size`, also spelled `--batch-size`.

    The fields named in `exclude` get none.
    """
    group = parser.add_argument_group("parameters of the run")
    for option in fields(Config):
        if option.name in exclude:
            continue
        names = dict.fromkeys((f"--{option.name}", f"--{option.name.replace('_', '-')}"))
        choices = option.metadata["choices"]
        group.add_argument(
            *names,
            dest=option.name,
            metavar="{" + ",".join(choices) + "}" if choices else "VALUE",
            help=f"{option.metadata['help']} (default: {option.default!s})".replace("%", "%%"),
        )


def given_options(options: argparse.Namespace) -> dict[str, str]:
    """The options of `Config` that were given, as they were spelled."""
    return {o.name: v for o in fields(Config) if (v := getattr(options, o.name, None)) is not None}


def config_from_options(options: argparse.Namespace) -> Config:
    """The `Config` of parsed options; an option that was not given has its default."""
    return config_from_strings(given_options(options))


def config_from_params(params: Mapping[str, object]) -> Config:
    """The `Config` of a run's parameters, among which others may stand."""
    names = {option.name for option in fields(Config)} & params.keys()
    return config_from_strings({name: str(params[name]) for name in names})


def options_given(params: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a run that are not at their default, as they are logged: name → value."""
    return {
        option.name: params[option.name]
        for option in fields(Config)
        if params.get(option.name) not in (None, str(option.default))
    }


def idle_in(used: Mapping[str, str]) -> frozenset[str]:
    """The parameters that changed nothing in a run, by the values that it used, as texts."""
    return frozenset(
        option
        for name, value, among in _WITHOUT_EFFECT
        if used.get(name) == str(value)
        for option in among
    )


def value_used(params: Mapping[str, str], name: str) -> str | None:
    """The value of a parameter as a run used it: what `auto` became, or what was done before it."""
    before = str(BEFORE[name]) if name in BEFORE else None
    return params.get(f"effective_{name}", params.get(name, before))


def test_views_of(params: Mapping[str, str]) -> int:
    """In how many views a run's network looks at an image, by its parameters; 1 of older runs."""
    return int(value_used(params, "test_views") or 1)


def config_from_strings(values: dict[str, str]) -> Config:
    """The `Config` of values as they are spelled on a command line; every bad one is named."""
    problems, converted = [], {}
    for option in fields(Config):
        if option.name in values:
            try:
                converted[option.name] = _convert(option, values[option.name])
            except UserError as error:
                problems.append(str(error))
    try:
        config = Config(**converted)
    except UserError as error:
        problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))
    return config


def warn_of_idle_parameters(configs: Iterable[Config]) -> None:
    """Say by name on stderr which parameters were set and change nothing, a line a reason.

    A warning, no error: what is trained is what was asked for, and an earlier command still runs.
    """
    found: dict[str, dict[str, None]] = {}
    for config in configs:
        for name, reason in config.without_effect().items():
            found.setdefault(reason, {})[f"{name}={getattr(config, name)}"] = None
    for reason, given in found.items():
        verb = "has" if len(given) == 1 else "have"
        print(
            f"skinml: warning: {', '.join(given)} {verb} no effect with {reason}", file=sys.stderr
        )
