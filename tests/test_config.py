"""What `Config` promises: every option explained, every mistake named, a digest of what decides."""

import argparse
import dataclasses
from dataclasses import fields, replace
from typing import Any

import pytest

from skinml.backbones import BACKBONES
from skinml.base.errors import UserError
from skinml.config import (
    AUTO,
    RECIPES,
    Config,
    Parser,
    add_config_options,
    config_from_options,
    config_from_strings,
    warn_of_idle_parameters,
)
from skinml.training.backend import Execution

FIELDS = {option.name: option for option in fields(Config)}
INDECISIVE = {
    "operating_point",
    "data_dir",
    "output_dir",
    "register",
    "export",
    "steps_per_execution",
    "images_on_device",
}
SPLIT = {"test_fraction", "validation_fraction", "split_seed", "near_duplicates"}


def parse(*arguments: str) -> Config:
    parser = Parser(prog="skinml")
    add_config_options(parser)
    return config_from_options(parser.parse_args(arguments))


def another(name: str) -> Any:
    """A valid value of a field that its resolved default differs from."""
    default = getattr(Config().resolved(), name)
    if choices := FIELDS[name].metadata["choices"]:
        return next(choice for choice in choices if choice not in (default, AUTO))
    if isinstance(default, bool):
        return not default
    if name == "test_views":
        return 8
    if isinstance(default, int):
        return default + 1
    if isinstance(default, float):
        return default / 2 or 0.1
    return {"dense_units": "128,64,32", "steps_per_execution": 3}.get(name, default + "-other")


def test_defaults_are_the_papers() -> None:
    """ArXiv 2110.12270: section III and Table I."""
    config = Config()
    assert (config.batch_size, config.dropout) == (16, 0.2)
    assert (config.protocol, config.test_fraction, config.validation_fraction) == (
        "paper", 0.15, 0.20,
    )  # fmt: skip
    assert (config.data, config.weights) == ("isic2017", "imagenet")
    resolved = config.resolved()
    assert (resolved.epochs_frozen, resolved.epochs_finetune) == (50, 100)


def test_no_option_at_all_is_the_default_config() -> None:
    assert parse() == Config()


def test_models_are_the_table_of_backbones() -> None:
    assert FIELDS["model"].metadata["choices"] == tuple(BACKBONES)
    for model in BACKBONES:
        assert parse("--model", model).model == model


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_help_and_a_default_that_it_accepts(name: str) -> None:
    option = FIELDS[name]
    assert len(option.metadata["help"]) > 10
    assert not option.metadata["choices"] or option.default in option.metadata["choices"]
    # The default as --help prints it can be typed.
    assert config_from_strings({name: str(option.default)}) == Config()


def test_help_names_every_option_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in fields(Config):
        assert f"--{option.name}" in text
        assert f"(default: {option.default})" in text


@pytest.mark.parametrize("spelling", ["--batch-size", "--batch_size"])
def test_dash_and_underscore_are_one_option(spelling: str) -> None:
    assert parse(spelling, "32") == Config(batch_size=32)
    assert parse(f"{spelling}=32") == Config(batch_size=32)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("register", "False", False),
        ("register", "true", True),
        ("epochs_frozen", "3", 3),
        ("epochs_frozen", "auto", AUTO),
        ("learning_rate_finetune", "1e-3", 1e-3),
        ("learning_rate_finetune", "auto", AUTO),
        ("weight_decay", "0", 0.0),
        ("weights", "none", "none"),
    ],
)
def test_values_are_converted_to_the_type_of_their_field(name: str, text: str, value: Any) -> None:
    converted = getattr(config_from_strings({name: text}), name)
    assert (converted, type(converted)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("model", "resnet", "mobilenetv2"),
        ("batch_size", "0", "at least 1"),
        ("batch_size", "16.5", "whole number"),
        ("batch_size", "auto", "whole number"),
        ("test_fraction", "0", "at least 0.01 and at most 0.9"),
        ("test_fraction", "nan", "finite"),
        ("learning_rate_frozen", "inf", "finite"),
        ("learning_rate_frozen", "0", "at least"),
        ("learning_rate_finetune", "fast", "a number or auto"),
        ("epochs_finetune", "-1", "at least 0"),
        ("epochs_finetune", "many", "a whole number or auto"),
        ("dropout", "1", "at most 0.95"),
        ("test_views", "4", "1 or 8"),
        ("label_smoothing", "1", "at most 0.9"),
        ("ema", "often", "a number"),
        ("dense_units", "256,128", "three widths"),
        ("dense_units", "256,128,0", "three widths"),
        ("dense_units", "a,b,c", "three widths"),
        ("register", "yes", "true or false"),
        ("seed", "-1", "at least 0"),
    ],
)
def test_bad_value_is_named_with_what_was_expected(name: str, text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(f"--{name}={text}")
    message = str(caught.value)
    assert message.startswith(f"{name}=")
    assert text in message
    assert f"expected {expected}" in message or expected in message.split("expected")[1]
    assert "\n" not in message


@pytest.mark.parametrize(
    "bad",
    [
        {"model": "resnet", "batch_size": "0", "dropout": "2", "dense_units": "1", "seed": "-1"},
        {"batch_size": "many", "dropout": "much", "register": "perhaps", "seed": "1.5"},
    ],
    ids=["out of range", "not converted"],
)
def test_all_bad_values_are_named_at_once_in_one_line(bad: dict[str, str]) -> None:
    with pytest.raises(UserError) as caught:
        config_from_strings(bad)
    message = str(caught.value)
    assert message.count("expected") == len(bad)
    assert all(f"{name}=" in message for name in bad)
    assert "\n" not in message


@pytest.mark.parametrize(
    "arguments",
    [["--colour", "red"], ["stray"], ["--batch_size"]],
    ids=["unknown", "stray", "no value"],
)
def test_bad_command_line_is_one_line_and_no_exit(arguments: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse(*arguments)
    assert arguments[0].lstrip("-") in str(caught.value).replace("-", "_")
    assert "skinml --help" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_resolved_from_pretrained_weights() -> None:
    for weights in ("imagenet", "weights.h5"):
        resolved = Config(weights=weights).resolved()
        assert resolved.pretrained
        assert (resolved.epochs_frozen, resolved.epochs_finetune) == (50, 100)
        assert (resolved.learning_rate_finetune, resolved.batch_norm) == (1e-4, "frozen")


def test_resolved_from_random_weights() -> None:
    resolved = Config(weights="none").resolved()
    assert not resolved.pretrained
    assert (resolved.epochs_frozen, resolved.epochs_finetune) == (0, 150)
    assert (resolved.learning_rate_finetune, resolved.batch_norm) == (1e-3, "trained")


def test_random_weights_are_fine_tuned_whole_by_any_recipe_unless_asked() -> None:
    def fine_tuning(**options: Any) -> tuple[str, int | str]:
        resolved = Config(recipe="ours", **options).resolved()
        return resolved.finetune_layers, resolved.epochs_finetune

    assert fine_tuning() == ("last_stage", 10)
    assert fine_tuning(weights="none") == ("all", 150)
    asked = {"finetune_layers": "last_stage", "epochs_finetune": 3}
    assert fine_tuning(weights="none", **asked) == ("last_stage", 3)


def test_resolved_keeps_what_was_given_and_leaves_no_auto_that_decides() -> None:
    given = Config(epochs_frozen=3, batch_norm="trained", learning_rate_finetune=0.5)
    resolved = given.resolved()
    assert resolved == replace(given, **RECIPES["paper"] | {"learning_rate_finetune": 0.5})
    assert resolved.resolved() == resolved
    # Where the data lie, and where and how it is trained, are not looked up here.
    left = {name for name, value in resolved.as_dict().items() if value == AUTO}
    assert left == {"data_dir", "device", *Execution._fields}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_what_auto_stands_for(recipe: str) -> None:
    resolved = Config(recipe=recipe).resolved()
    assert {name: getattr(resolved, name) for name in RECIPES[recipe]} == RECIPES[recipe]
    assert RECIPES[recipe].keys() == RECIPES["paper"].keys()
    assert all(getattr(Config(), name) == AUTO for name in RECIPES[recipe])


@pytest.mark.parametrize("name", RECIPES["ours"])
def test_each_value_of_a_recipe_can_be_given_by_itself(name: str) -> None:
    papers = RECIPES["paper"][name]
    mixed = config_from_strings({"recipe": "ours", name: str(papers)}).resolved()
    expected = RECIPES["ours"] | {name: papers}
    assert {key: getattr(mixed, key) for key in expected} == expected


def test_a_recipe_is_known_by_its_values_whoever_gives_them() -> None:
    spelled_out = Config(**RECIPES["ours"])
    assert spelled_out.digest() == Config(recipe="ours").digest() != Config().digest()


def test_runs_of_before_there_were_recipes_are_repetitions_of_the_papers() -> None:
    """The digests that earlier runs have as their tag `config_digest`."""
    assert Config().digest() == "2feeed455ce19a00"
    assert Config(model="mobilenet", protocol="challenge").digest() == "38a87e77dbc115eb"


@pytest.mark.parametrize("given", [{"augmentation": "crops"}, {"mixup": 0.2}], ids=str)
def test_images_on_the_device_are_neither_cropped_nor_mixed(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"images_on_device=true: .*expected auto or false"):
        Config(images_on_device="true", **given).resolved()
    assert Config(images_on_device="auto", **given).resolved().images_on_device == "false"
    assert Config(images_on_device="true").resolved().images_on_device == "true"
    assert Config().resolved().images_on_device == "auto"


def test_an_average_of_weights_needs_statistics_that_stay() -> None:
    """Those of batch normalisation that is trained are not averaged with them."""
    with pytest.raises(UserError, match=r"ema=0.99: with batch_norm=trained .*expected batch_norm"):
        Config(ema=0.99, weights="none").resolved()
    assert Config(ema=0.99).resolved().batch_norm == "frozen"
    head_alone = Config(ema=0.99, weights="none", epochs_frozen=5, epochs_finetune=0)
    assert head_alone.resolved().ema == 0.99


def test_no_epoch_at_all_is_refused() -> None:
    for config in (
        Config(epochs_frozen=0, epochs_finetune=0),
        Config(weights="none", epochs_finetune=0),
    ):
        with pytest.raises(UserError, match="at least one epoch"):
            config.resolved()


def test_dense_widths() -> None:
    assert Config(dense_units="32,16,8").dense_widths == [32, 16, 8]


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_digest_follows_exactly_the_fields_that_decide(name: str) -> None:
    changed = replace(Config(), **{name: another(name)})
    assert changed != Config()
    assert (changed.digest() == Config().digest()) == (name in INDECISIVE)


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - {"protocol"}))
def test_digest_ignores_the_split_under_challenge(name: str) -> None:
    challenge = Config(protocol="challenge")
    changed = replace(challenge, **{name: another(name)})
    assert (changed.digest() == challenge.digest()) == (name in INDECISIVE | SPLIT)


def test_digest_is_that_of_the_resolved_values() -> None:
    assert Config().digest() == Config().resolved().digest()
    assert Config(epochs_frozen=50, batch_norm="frozen").digest() == Config().digest()


def test_digest_of_a_weights_file_is_that_of_its_content() -> None:
    here, there = Config(weights="here/w.h5"), Config(weights="there/w.h5")
    assert here.digest() != there.digest()
    assert here.digest("abc") == there.digest("abc") != here.digest("abd")


def test_digest_is_sixteen_hexadecimal_digits() -> None:
    assert len(Config().digest()) == 16
    int(Config().digest(), 16)


def test_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1  # type: ignore[misc]


def test_as_dict_makes_the_same_config_again() -> None:
    config = Config(model="mobilenet", batch_size=64, epochs_frozen=1)
    assert Config(**config.as_dict()) == config
    assert config_from_strings({k: str(v) for k, v in config.as_dict().items()}) == config


def test_other_options_of_a_parser_are_left_alone() -> None:
    parser = Parser(prog="skinml")
    parser.add_argument("--verbose", action="store_true")
    add_config_options(parser)
    options = parser.parse_args(["--verbose", "--seed", "3"])
    assert isinstance(options, argparse.Namespace)
    assert options.verbose
    assert config_from_options(options) == Config(seed=3)


def test_a_value_of_the_wrong_kind_does_not_hide_one_out_of_range() -> None:
    with pytest.raises(UserError) as caught:
        config_from_strings({"batch_size": "abc", "seed": "-1"})
    assert "batch_size='abc'" in str(caught.value)
    assert "seed=-1" in str(caught.value)


def test_text_other_than_auto_is_refused_where_a_number_or_auto_is_expected() -> None:
    with pytest.raises(UserError, match="epochs_frozen='abc': expected a number or auto"):
        Config(epochs_frozen="abc")


def test_spaces_in_dense_units_make_no_other_configuration() -> None:
    assert Config(dense_units="256, 128,64").digest() == Config().digest()


# Parameters without effect


@pytest.mark.parametrize(
    ("condition", "idle"),
    [
        ({}, set()),
        ({"protocol": "challenge"}, SPLIT),
        ({"epochs_frozen": 0}, {"learning_rate_frozen"}),
        ({"weights": "none"}, {"learning_rate_frozen"}),
        (
            {"epochs_finetune": 0},
            {"learning_rate_finetune", "finetune_layers", "batch_norm", "images_on_device"},
        ),
        ({"optimizer": "adam"}, {"weight_decay"}),
        ({"optimizer": "sgd"}, {"weight_decay"}),
        ({"head": "one"}, {"dense_units", "dropout"}),
        ({"recipe": "ours"}, {"dense_units", "dropout"}),
    ],
    # A set has another order in each process, and tests side by side must have the same names.
    ids=lambda value: str(value) if isinstance(value, dict) else "idle",
)
@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_parameter_that_changes_nothing_is_named_where_it_is_set(
    name: str, condition: dict[str, Any], idle: set[str]
) -> None:
    config = Config(**condition)
    # At their defaults, which `mlflow run` gives one and all, none is.
    assert config.without_effect() == {}
    if name not in condition:
        changed = replace(config, **{name: another(name)})
        if name == "ema":
            changed = replace(changed, batch_norm="frozen")  # No other goes with it.
            idle = idle & {"batch_norm"}
            name = "batch_norm"
        assert set(changed.without_effect()) == {name} & idle


def test_parameters_without_effect_are_warned_of_a_line_a_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    challenge = Config(protocol="challenge", test_fraction=0.3, split_seed=2)
    warn_of_idle_parameters(
        [Config(test_fraction=0.3), challenge, replace(challenge, optimizer="adam", split_seed=1)]
    )
    assert capsys.readouterr().err == (
        "skinml: warning: test_fraction=0.3, split_seed=2, split_seed=1 have no effect with "
        "protocol=challenge\n"
    )
    warn_of_idle_parameters([Config(optimizer="sgd", weight_decay=0.1)])
    assert capsys.readouterr().err == (
        "skinml: warning: weight_decay=0.1 has no effect with optimizer=sgd\n"
    )


# A near miss


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["--model", "mobilenet_v2"], "mobilenetv2"),
        (["--model", "MobileNetV2"], "mobilenetv2"),
        (["--model", "efficientnet"], "efficientnetb0"),
        (["--protocol", "chalenge"], "challenge"),
        (["--precision", "float16"], "mixed_float16"),
        (["--batchsize", "32"], "--batch_size"),
        (["--batch-szie=32"], "--batch_size"),
        (["--learning_rate_finetuning", "1e-3"], "--learning_rate_finetune"),
    ],
)
def test_a_near_miss_is_answered_with_the_nearest(arguments: list[str], near: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(*arguments)
    assert f" (did you mean {near}?)" in str(caught.value)


@pytest.mark.parametrize("arguments", [["--model", "resnet"], ["--colour", "red"], ["stray"]])
def test_what_is_near_to_nothing_is_answered_without_a_guess(arguments: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse(*arguments)
    assert "did you mean" not in str(caught.value)


def test_the_choices_of_any_option_and_command_are_near_misses_too() -> None:
    parser = Parser(prog="skinml")
    parser.add_argument("--format", choices=("table", "json"))
    with pytest.raises(UserError, match=r"--format: invalid choice: 'jsn' .*mean json\?\); see"):
        parser.parse_args(["--format", "jsn"])
