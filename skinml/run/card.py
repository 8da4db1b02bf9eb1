"""The model card of a run: what a network is, what it is for, and how well it did, in Markdown.

The sections are those of Mitchell et al. (FAT* 2019, arXiv 1810.03993); the header is the metadata
that Hugging Face's tools read from a README.md.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from skinml.config import value_used
from skinml.data.datasets import DATASETS, title_of
from skinml.data.isic2017 import NOTICE
from skinml.evaluation.classes import against_the_rest, of_class
from skinml.evaluation.drawing import spaced
from skinml.evaluation.headline import headline_figures, headline_table
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.results import chosen_on_validation
from skinml.run.subgroups import card_lines
from skinml.tracking.folder import Description

# The data sets whose pictures were taken through a dermatoscope.
_DERMOSCOPY = ("isic2017", "ham10000", "isic2019")

# The names that tools know for metrics of ours.
_KNOWN_AS = {"accuracy": "accuracy", "f1_weighted": "f1", "auc_macro": "roc_auc"}


def make_card(
    description: Description,
    metrics: Mapping[str, float],
    test: Predictions,
    limits: tuple[str, ...],
) -> str:
    """The card of a trained network; `limits` are what its report says that it is not for."""
    import yaml

    header = yaml.safe_dump(_header(description, metrics), sort_keys=False, allow_unicode=True)
    return "\n".join(
        ["---", header.rstrip(), "---", "", *_body(description, metrics, test, limits)]
    )


def _header(description: Description, metrics: Mapping[str, float]) -> dict[str, Any]:
    data = description.tags["data"]
    dataset = {"name": title_of(data), "type": data, "split": "test",
               "revision": description.tags["data_digest"]}  # fmt: skip
    figures = [
        {"type": known, "name": name, "value": round(metrics[f"test_{name}"], 4)}
        for name, known in _KNOWN_AS.items()
        if math.isfinite(metrics.get(f"test_{name}", math.nan))
    ]
    result = {
        "task": {"type": "image-classification"}, "dataset": dataset, "metrics": figures,
    }  # fmt: skip
    return {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": [
            "skinml", *["dermoscopy"] * (data in _DERMOSCOPY), "not-for-clinical-use",
            description.tags["model"],
        ],
        "datasets": [data],
        "metrics": list(_KNOWN_AS.values()),
        "model-index": [{"name": description.name, "results": [result]}],
    }  # fmt: skip


def _body(
    description: Description,
    metrics: Mapping[str, float],
    test: Predictions,
    limits: tuple[str, ...],
) -> Iterator[str]:
    params, tags = description.params, description.tags
    known = DATASETS.get(tags["data"])
    yield from (f"# {description.name}", "", f"**{NOTICE}**", "", "## Model details", "")
    yield (
        f"{tags['model']}, {_how(tags['weights_kind'], params)} with "
        f"batch size {params['batch_size']}, seed {params['seed']}, recipe "
        f"{params.get('recipe', 'paper')}. It takes RGB pixels from 0 to 255 and gives a score for "
        f"each of {', '.join(map(spaced, test.classes))}; the scores add up to 1. Training code "
        f"{params.get('training_digest', '?')}, commit {params.get('git_commit', '?')}."
    )
    yield from ("", "## Intended use", "")
    yield (
        "Research on lightweight networks, and comparison with others on the same images. Out of "
        "scope: every diagnosis, triage and treatment."
    )
    yield from ("", "## Factors", "")
    yield (
        "Age, sex, site and skin type of the patients, camera and clinic, hair, rulers and pen "
        "marks on a picture. How it does by those that are known is among the analyses below."
    )
    yield from ("", "## Metrics", "")
    yield (
        "Intervals are 95 % bootstrap intervals over the test images alone; other training seeds "
        "move the figures too. Sensitivity and specificity are those of the class with the "
        "highest score, unless a threshold is named."
    )
    yield from ("", "## Evaluation and training data", "")
    cited = f" ({known.citation})" if known and known.citation else ""
    yield (
        f"{title_of(tags['data'])}{cited}, digest {tags['data_digest']}, {tags['split']}. "
        f"{_counts(description)}"
    )
    if known and known.licence:
        yield from ("", f"Licence of the pictures: {known.licence}.")
    yield from ("", "## Quantitative analyses", "")
    yield from _table(metrics, test)
    yield from _points(metrics, test, params)
    yield from card_lines(test, metrics)
    yield from ("", "## Ethical considerations", "")
    yield (
        "A network that misses a melanoma, or calls a nevus one, harms if it is believed. Nobody "
        "has tested it on patients."
    )
    yield from ("", "## Caveats and recommendations", "", *(f"- {limit}" for limit in limits), "")


def _how(weights: str, params: Mapping[str, str]) -> str:
    """How a network was made, from what its initial weights were."""
    if value_used(params, "epochs_finetune") == "0":
        return f"its new layers alone trained by skinml, the others left at {weights} weights,"
    if weights == "random":
        return "trained by skinml from random initial weights"
    return f"fine-tuned by skinml from {weights} initial weights"


def _cell(label: str) -> str:
    """A class's name in a table, whose columns a sign of its own would part."""
    return spaced(label).replace("|", r"\|")


def _counts(description: Description) -> str:
    counts = description.dataset.get("counts", {})
    parts = ("train", "validation", "test")
    sums = [f"{sum(counts[part].values()):,} {part}" for part in parts if part in counts]
    return f"Images: {', '.join(sums)}." if sums else ""


def _table(metrics: Mapping[str, float], test: Predictions) -> Iterator[str]:
    yield from headline_table(headline_figures(metrics, "test", test.classes), "on test", 3)
    yield from ("", "| class | images | sensitivity | specificity |", "| --- | --- | --- | --- |")
    for label in against_the_rest(test.classes):
        images = int((test.labels == test.classes.index(label)).sum())
        rates = [
            metrics.get(f"test_{of_class(rate, label)}", math.nan)
            for rate in ("sensitivity", "specificity")
        ]
        texts = ["–" if math.isnan(rate) else f"{rate:.3f}" for rate in rates]
        yield f"| {_cell(label)} | {images} | {' | '.join(texts)} |"


def _points(
    metrics: Mapping[str, float], test: Predictions, params: Mapping[str, str]
) -> Iterator[str]:
    """The operating points, if a class is looked for that thresholds were chosen for."""
    chosen = chosen_on_validation(metrics, test.classes, params)
    if not chosen.points:
        return
    yield from ("", f"| {_cell(chosen.label)} from a threshold on, chosen on validation for | "
                "threshold | test sensitivity | test specificity |",
                "| --- | --- | --- | --- |")  # fmt: skip
    for name, point in chosen.points.items():
        rates = f"{point.test_sensitivity:.3f} | {point.test_specificity:.3f}"
        yield f"| {name} | {point.threshold:.4f} | {rates} |"
