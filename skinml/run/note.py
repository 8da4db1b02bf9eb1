"""The page of a run for a person, in Markdown: its figures with their intervals."""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from skinml.base.names import identifier
from skinml.config import Config
from skinml.data.datasets import challenge_tasks
from skinml.data.isic2017 import NOTICE
from skinml.evaluation.classes import against_the_rest, sought
from skinml.evaluation.headline import headline_figures, headline_table
from skinml.evaluation.operating_point import RULES, Rule, read_rule
from skinml.evaluation.predictions import Predictions
from skinml.tracking.folder import Description


def make_note(
    config: Config, description: Description, metrics: Mapping[str, float], test: Predictions
) -> str:
    """What was trained, how good it is on the test images, and how to read that."""
    lines = [
        f"**{config.model}**, batch size {config.batch_size}, seed {config.seed}, "
        f"{description.tags['data']}, {description.tags['split']}, "
        f"{description.tags['weights_kind']} initial weights, "
        f"{config.epochs_frozen} + {config.epochs_finetune} epochs, recipe {config.recipe}",
        "",
    ]
    if test.one_class:
        lines += [f"**This network {test.one_class}: it tells nothing apart.**", ""]
    lines += [*_headline(metrics, test), "", *_answers(metrics, test), ""]
    lines += [
        *_reading(config, metrics, test),
        "",
        _circumstances(config, description, metrics, test),
        "",
    ]
    if config.data == "demo":
        lines += ["**Generated demo images: these figures say nothing about skin lesions.**", ""]
    return "\n".join([*lines, NOTICE, ""])


def _headline(metrics: Mapping[str, float], test: Predictions) -> Iterator[str]:
    """The headline metrics, and the accuracy of whoever always gives the same answer."""
    counts = np.bincount(test.labels, minlength=len(test.classes))
    commonest = _shown(test.classes[int(counts.argmax())])
    share = counts.max() / len(test.labels)
    beneath = {"accuracy": f"| … of always answering “{commonest}” | {share:.4f} | |"}
    figures = headline_figures(metrics, "test", test.classes)
    return headline_table(figures, "test metric", 4, beneath)


def _answers(metrics: Mapping[str, float], test: Predictions) -> Iterator[str]:
    """How often each answer is right, and how often its absence is."""
    highest, label = "its score is the highest", sought(test.classes)
    answers = [(name, highest, identifier(name)) for name in against_the_rest(test.classes)]
    threshold = _threshold(metrics, label)
    if label and not math.isnan(threshold):
        where = f"its score is {threshold:.4f} or more"
        answers.append((label, where, f"{identifier(label)}_at_threshold"))
    yield "| answer | given where | sensitivity | specificity |"
    yield "| --- | --- | --- | --- |"
    for name, where, metric in answers:
        rates = [metrics[f"test_{rate}_{metric}"] for rate in ("sensitivity", "specificity")]
        texts = ["–" if math.isnan(rate) else f"{rate:.4f}" for rate in rates]
        yield f"| {' | '.join([_shown(name), where, *texts])} |"


def _threshold(metrics: Mapping[str, float], label: str | None) -> float:
    """The threshold on the score of the class that is sought; NaN where none was chosen."""
    return metrics.get(f"{identifier(label)}_threshold", math.nan) if label else math.nan


def _shown(label: str) -> str:
    """A class's name in a table of Markdown."""
    return label.replace("_", " ").replace("|", r"\|")


def _reading(config: Config, metrics: Mapping[str, float], test: Predictions) -> Iterator[str]:
    text = (
        "Sensitivity is the share of a class's images that get its answer, specificity the share "
        "of the other images that do not."
    )
    label = sought(test.classes)
    threshold = _threshold(metrics, label)
    if label is None:
        text += (
            " No threshold is chosen on one class's score: none is called melanoma, and which of "
            "several classes must not be missed only you know."
        )
    elif not math.isnan(threshold):
        own = "melanomas" if label == "melanoma" else f"“{_shown(label)}” images"
        text += f" {threshold:.4f} is {_chosen(read_rule(config.operating_point), own)}."
    yield text


def _chosen(rule: Rule, own: str) -> str:
    """By what a threshold was chosen, in words; `own` are the images that it is to find."""
    share = f"{100 * rule.least:g} %"
    if rule.kind == "youden":
        return "the threshold of the highest sum of both among the validation images"
    if rule.kind == "specificity":
        return f"the lowest threshold that leaves at least {share} of the other validation images"
    challenge = ": the lowest sensitivity that the ISIC 2017 challenge looked at"
    return (
        f"the highest threshold that finds at least {share} of the {own} among the validation "
        f"images{challenge if rule == RULES[0] else ''}"
    )


def _circumstances(
    config: Config, description: Description, metrics: Mapping[str, float], test: Predictions
) -> str:
    views = f" in {config.test_views} views" if config.test_views != 1 else ""
    kept = "the last" if config.monitor == "last" else f"best validation {config.monitor}"
    challenge = ""
    if challenge_tasks(test.classes):
        challenge = f"The AUCs of the challenge are {description.tags['challenge_score']} here. "
    return (
        f"{challenge}The intervals are over test images alone (bootstrap, 2,000 resamples); other "
        "seeds move the figures too. Kept epoch: "
        f"{metrics['best_epoch']:.0f} ({kept}). "
        f"{metrics['parameters_millions']:.2f} M parameters, {metrics['latency_ms']:.0f} ms an "
        f"image{views} on {description.params['device_name']} "
        f"({description.params['device_threads']} threads)."
    )
