"""The report of a run: one file that stands alone, whose figures are those of the tables."""

import base64
import io
import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from skinml.base.errors import UserError
from skinml.compare.document import Code, Table
from skinml.compare.formats.html import to_html
from skinml.config import Config, config_from_params, config_from_strings
from skinml.data.isic2017 import CLASSES
from skinml.evaluation import figures
from skinml.evaluation.calibration import Temperature, brier
from skinml.evaluation.figures import FigureData
from skinml.evaluation.operating_point import RULES, Rule, Scored, operating_points
from skinml.evaluation.predictions import Predictions, read_predictions, write_predictions
from skinml.evaluation.results import evaluate_tables
from skinml.evaluation.subgroups import figures_of_run
from skinml.report import main
from skinml.run import report
from skinml.run.card import make_card
from skinml.run.report import make_report
from skinml.run.trained import trained_blocks
from skinml.tracking.folder import Description, RunFolder

ROOT = Path(__file__).parents[1]


def table(seed: int, count: int) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, count, p=[0.2, 0.6, 0.2])
    logits = rng.normal(size=(count, 3)) + 1.5 * np.eye(3)[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(
        np.array([f"ISIC_{seed}{n:05}" for n in range(count)]), labels, scores, CLASSES
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    params = {"model": "mobilenet", "batch_size": "16", "seed": "1", "data": "isic2017",
              "protocol": "challenge", "data_digest": "0123456789abcdef"}  # fmt: skip
    counts = {part: dict.fromkeys(CLASSES, 40) for part in ("train", "validation", "test")}
    description = {"name": "mobilenet-16-seed1", "params": params, "tags": {"split": "challenge"},
                   "dataset": {"counts": counts}}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(description))
    write_predictions(table(1, 200), folder / "predictions_validation.csv")
    write_predictions(table(2, 300), folder / "predictions_test.csv")
    assert main([str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text()


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL))


def test_it_stands_alone_and_fits_into_a_mail(page: str) -> None:
    assert not re.search(r"(src|href)=.(?!data:|#)", page)
    assert len(page) < 3_000_000


def test_a_figure_of_photographs_fits_too(folder: Path, tmp_path: Path) -> None:
    """As PNG the mistakes of a real run have 2 MB, and made its report one of 3.5."""
    shades = np.random.default_rng(0).integers(90, 160, (150, 185, 3), np.uint8)
    photographs = Image.fromarray(shades).resize((1480, 1200), Image.Resampling.BICUBIC)
    photographs.save(tmp_path / "mistakes.png")
    assert (tmp_path / "mistakes.png").stat().st_size > 1_500_000
    description, tables = described(folder)
    report = make_report(description, evaluate_tables(tables), tables, frozenset({"mistakes"}))
    (content,) = re.findall('data:image/jpeg;base64,([^"]+)', to_html(report, tmp_path))
    assert len(content) < 1_000_000
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.size == photographs.size
        assert np.abs(np.asarray(image, int) - np.asarray(photographs, int)).mean() < 3


def test_the_operating_points_are_those_of_the_tables(folder: Path, page: str) -> None:
    tables = [read_predictions(folder / f"predictions_{p}.csv") for p in ("validation", "test")]
    validation, test = (Scored(t.labels == 0, t.scores[:, 0]) for t in tables)
    text = text_of(page)
    for rule, point in zip(RULES, operating_points(validation, test), strict=True):
        found, positives = point.test.true_positives, int(test.positive.sum())
        assert f"{rule.title} {point.threshold:.4f}" in text
        assert f"{point.test.sensitivity:.3f} {found} of {positives};" in text


def test_calibration_costs_and_abstaining_are_told(folder: Path, page: str) -> None:
    test = read_predictions(folder / "predictions_test.csv")
    assert f"{brier(test.labels == 0, test.scores[:, 0]).score:.4f}" in page
    text = text_of(page)
    for told in ("20 : 1", "excise nothing", "Brier score", "90 %", "no clinic", "clinical use"):
        assert told in text


@pytest.mark.parametrize("value", [0.05, 20.0])
def test_a_temperature_at_the_end_of_the_range_is_no_answer(value: float) -> None:
    """The report said of an interval below 0 that nothing was shown."""
    said = report._of_temperature(Temperature(value, 0.3, 0.2, 0.4))
    assert "lies at the end of the range that was looked at (0.05 to 20)" in said
    assert "-0.300 (-0.400 to -0.200)" in said and "left without one" in said
    assert "shown" not in said
    assert "makes the scores better" in report._of_temperature(Temperature(1.2, 0.3, 0.2, 0.4))


def test_another_prevalence_changes_the_costs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the decision curve, which stayed at that of the test part."""
    drawn: list[FigureData] = []
    draw = figures.draw_figures

    def watch(data: FigureData, *rest: Any) -> list[Path]:
        drawn.append(data)
        return draw(data, *rest)

    monkeypatch.setattr(figures, "draw_figures", watch)
    out = tmp_path / "clinic.html"
    assert main([str(folder), "--out", str(out), "--prevalence", "0.02"]) == 0
    assert "2.0 % of the patients have a melanoma, as asked for" in text_of(out.read_text())
    assert [data.prevalence for data in drawn] == [0.02]


def test_the_report_that_a_run_has_noted_stays_as_it_is(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Written over, it lost the images of its mistakes, and MLflow never got any report."""
    monkeypatch.setattr("skinml.report.report_html", lambda *given: "anew")
    (tmp_path / "report.html").write_text("the run's own")
    (tmp_path / "journal.log").touch()
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text() == "the run's own"
    assert (tmp_path / "report-anew.html").read_text() == "anew"
    assert capsys.readouterr().out == f"{tmp_path / 'report-anew.html'}\n"


def test_a_threshold_that_calls_nothing_is_none(folder: Path) -> None:
    """Where hardly a patient has a melanoma it costs least, and was told as "inf"."""
    description, tables = described(folder)
    highest = tables["validation"].scores[:, 0].argmax()
    tables["validation"].labels[highest] = CLASSES.index("nevus")
    metrics = evaluate_tables(tables)
    text = text_of(to_html(make_report(description, metrics, tables, prevalence=1e-6)))
    assert "5 : 1 none to call nothing costs least 0.000 1.000" in text and " inf " not in text


def test_without_a_melanoma_in_validation_no_cost_is_counted(folder: Path) -> None:
    """It was told as "925 (925 to 925)", of a threshold that nothing had chosen."""
    description, tables = described(folder)
    whole = tables["validation"]
    others = whole.labels != CLASSES.index("melanoma")
    tables["validation"] = Predictions(
        whole.image_ids[others], whole.labels[others], whole.scores[others], CLASSES
    )
    text = text_of(to_html(make_report(description, evaluate_tables(tables), tables)))
    assert "No cost is counted: the validation part has melanoma images alone, or none" in text
    assert "What mistakes cost" not in text and "Operating points" in text


def test_a_place_that_is_not_there_is_the_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, not a traceback."""
    monkeypatch.setattr("skinml.report.report_html", lambda *given: "<html>")
    with pytest.raises(UserError, match=r"--out .*x\.html: cannot be written \(No such file"):
        main([str(tmp_path), "--out", str(tmp_path / "nowhere" / "x.html")])


def test_without_a_validation_table_no_threshold_is_told(folder: Path, tmp_path: Path) -> None:
    for name in ("run.json", "predictions_test.csv"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert main([str(tmp_path)]) == 0
    text = text_of((tmp_path / "report.html").read_text())
    assert "At a threshold" not in text and "How good it is" in text


def test_the_point_that_a_run_was_asked_for_comes_first(folder: Path) -> None:
    description, tables = described(folder, operating_point="sensitivity:0.7")
    metrics = evaluate_tables(tables, Rule("sensitivity", 0.7))
    text = text_of(to_html(make_report(description, metrics, tables)))
    threshold = metrics["melanoma_threshold"]
    assert text.index(f"sensitivity ≥ 0.7 {threshold:.4f}") < text.index("sensitivity ≥ 0.82")
    card = make_card(description, metrics, tables["test"], ())
    rates = [metrics[f"operating_point/sensitivity_0.7/test_{r}"]
             for r in ("sensitivity", "specificity")]  # fmt: skip
    row = f"| sensitivity:0.7 | {threshold:.4f} | {rates[0]:.3f} | {rates[1]:.3f} |"
    assert row in card.splitlines()


def test_without_a_melanoma_a_report_says_why_there_is_no_threshold(folder: Path) -> None:
    description, tables = described(folder)
    tables = {part: replace(table, classes=("a", "b", "c")) for part, table in tables.items()}
    metrics = evaluate_tables(tables)
    text = text_of(to_html(make_report(description, metrics, tables)))
    assert "none of the classes is called melanoma" in text and "Operating points" not in text
    assert "chosen on validation" not in make_card(description, metrics, tables["test"], ())


def described(folder: Path, **params: str) -> tuple[Description, dict[str, Predictions]]:
    """The run of a folder, with some more parameters, and its tables."""
    said = json.loads((folder / "run.json").read_text())
    tags = {"data": "isic2017", "model": "mobilenet", "weights_kind": "ImageNet",
            "data_digest": "0123456789abcdef", "split": "challenge"}  # fmt: skip
    parts = ("validation", "test")
    tables = {part: read_predictions(folder / f"predictions_{part}.csv") for part in parts}
    return Description(said["name"], said["params"] | params, tags, said["dataset"]), tables


def test_its_command_and_settings_are_those_of_the_run() -> None:
    """Of a run by another recipe, on another split: the command asks for the same."""
    run = ROOT / "results" / "real-table-ours" / "mobilenet-16-seed1"
    description = Description(**json.loads((run / "run.json").read_text()))
    found = list(trained_blocks(description, CLASSES))
    [command] = [block.lines[0] for block in found if isinstance(block, Code)]
    given = dict(word.removeprefix("--").split("=") for word in shlex.split(command)[3:])
    assert given.pop("weights") == "mobilenet_imagenet_notop.weights.h5"
    asked = config_from_strings(given)
    then = description.params | {"weights": "imagenet"}
    assert asked.digest() == config_from_params(then).digest()
    assert (asked.recipe, asked.test_fraction, asked.threads) == ("ours", 0.2, 2)
    [settings] = [b for b in found if isinstance(b, Table) and b.title == "Settings"]
    told = {name.text: value.text for name, value in settings.rows}
    assert told["epochs finetune"] == "10" and told["head"] == "one" and told["test views"] == "8"
    assert "auto" not in told.values() and "mixup" not in told


@pytest.mark.parametrize("data", ["/srv/ann/clinic", "./clinic", "C:\\ann\\clinic.csv", "ann.csv"])
def test_it_tells_no_path_of_somebody_s_machine(folder: Path, data: str) -> None:
    """docs/data.md: the path is a parameter of the run in the store, and nowhere else."""
    paths = {"data": data, "weights": "/srv/ann/w.weights.h5", "data_dir": "/srv/ann/data"}
    description, tables = described(folder, **paths)
    metrics = evaluate_tables(tables)
    text = text_of(to_html(make_report(description, metrics, tables)))
    assert "ann" not in re.sub("channel|cannot|another|planned", "", text)
    assert "--data=PATH" in text and "--weights=w.weights.h5" in text
    assert "ann" not in make_card(description, metrics, tables["test"], ())


def test_settings_that_changed_nothing_are_not_told(folder: Path) -> None:
    """As if the challenge's parts had been split by a fraction, and the backbone fine-tuned."""
    logged = {name: str(value) for name, value in Config().as_dict().items()}

    def settings(**params: str) -> set[str]:
        description = described(folder, **{**logged, **params})[0]
        found = trained_blocks(description, CLASSES)
        [table] = [b for b in found if isinstance(b, Table) and b.title == "Settings"]
        return {name.text for name, _ in table.rows}

    split = {"test fraction", "near duplicates", "split seed"}
    second = {"learning rate finetune", "finetune layers", "batch norm"}
    assert split | second < settings(effective_epochs_finetune="10")
    told = settings(protocol="challenge", epochs_finetune="0")
    assert not told & (split | second) and "epochs finetune" in told
    assert "learning rate frozen" not in settings(effective_epochs_frozen="0")


@pytest.mark.parametrize(
    ("weights", "epochs", "said"),
    [
        ("imagenet", "10", "fine-tuned by skinml from imagenet initial weights with"),
        ("random", "10", "trained by skinml from random initial weights with"),
        ("imagenet", "0", "its new layers alone trained by skinml, the others left at imagenet"),
    ],
)
def test_the_card_says_how_the_network_was_made(
    folder: Path, weights: str, epochs: str, said: str
) -> None:
    description, tables = described(folder, epochs_finetune=epochs)
    description.tags["weights_kind"] = weights
    card = make_card(description, evaluate_tables(tables), tables["test"], ())
    assert f"mobilenet, {said}" in card


@pytest.mark.parametrize("data", ["isic2019", "pad-ufes-20", "demo", "own-clinic"])
def test_the_card_calls_dermoscopy_what_is(folder: Path, data: str) -> None:
    """PAD-UFES-20 was taken with telephones, and of one's own pictures nobody knows."""
    description, tables = described(folder)
    description.tags["data"] = data
    card = make_card(description, evaluate_tables(tables), tables["test"], ())
    assert ("dermoscopy" in yaml.safe_load(card.split("---\n")[1])["tags"]) is (data == "isic2019")


def test_a_sign_in_a_class_s_name_parts_no_column_of_the_card(folder: Path) -> None:
    description, tables = described(folder)
    tables = {part: replace(table, classes=("a|b", "c", "d")) for part, table in tables.items()}
    card = make_card(description, evaluate_tables(tables), tables["test"], ())
    [row] = [line for line in card.splitlines() if line.startswith(r"| a\|b |")]
    assert len(re.split(r"(?<!\\)\|", row)) == 6


def test_it_leads_to_the_pictures_that_lie_beside_it(
    folder: Path, page: str, tmp_path: Path
) -> None:
    assert "pictures.html" not in page
    for path in folder.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pictures.html").write_text("the page")
    assert main([str(tmp_path)]) == 0
    (link,) = re.findall('href="([^#][^"]*)"', (tmp_path / "report.html").read_text())
    assert link == "pictures.html#right=wrong"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "no run.json"),
        (["nowhere", "--prevalence", "2"], "between 0 and 1"),
    ],
)
def test_mistakes_are_one_line(words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        main(words)


def test_the_card_has_the_header_that_tools_read_and_its_sections(folder: Path) -> None:
    """As Hugging Face's README.md begins: YAML between two lines of dashes."""
    description, tables = described(folder)
    test = tables["test"]
    metrics = evaluate_tables({"test": test})
    card = make_card(description, metrics, test, ("It is not for this.",))
    _, header, body = card.split("---\n", 2)
    known = yaml.safe_load(header)
    assert known["pipeline_tag"] == "image-classification"
    (result,) = known["model-index"][0]["results"]
    figures = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert figures["accuracy"] == pytest.approx(metrics["test_accuracy"], abs=1e-4)
    for section in ("Model details", "Intended use", "Factors", "Metrics", "Quantitative analyses",
                    "Evaluation and training data", "Ethical considerations",
                    "Caveats and recommendations"):  # fmt: skip
        assert f"\n## {section}\n" in body
    assert "- It is not for this." in body and "not for clinical use" in body


def test_the_page_that_explains_a_report_quotes_the_committed_run() -> None:
    """Every figure of three decimals in docs/reading-a-result.md is in that run's report."""
    root = Path(__file__).parents[1]
    run = RunFolder.open(root / "results" / "challenge-mobilenetv2-16" / "seed1")
    tables = {part: read_predictions(run.predictions(part)) for part in ("validation", "test")}
    metrics = evaluate_tables(tables)
    said = text_of(to_html(make_report(run.read_description(), metrics, tables)))
    told = (root / "docs" / "reading-a-result.md").read_text()
    figures = set(re.findall(r"\b[01]\.\d{3,4}\b", told))
    assert len(figures) > 30
    assert {figure for figure in figures if figure not in said} == set()
    costs = re.findall(r"\((\d+ to \d+)\)", told)
    assert costs and {interval for interval in costs if interval not in said} == set()


def test_groups_of_the_test_images_are_in_the_report_and_the_card() -> None:
    """Where something is known of them: the numbers, and of whom too little is known to say."""
    validation, test = table(1, 200), table(2, 600)
    ages = np.resize(["30", "50", "60", "unknown"], 600)
    sexes = np.where(np.arange(600) < 30, "female", "male")
    test = replace(test, subgroups={"age": ages, "sex": sexes})
    tables = {"validation": validation, "test": test}
    metrics = evaluate_tables(tables)
    description = Description(
        "m-16", {"model": "m", "batch_size": "16", "seed": "1"}, {"data": "isic2017", "split": "s",
        "model": "m", "weights_kind": "random", "data_digest": "0"}, {},
    )  # fmt: skip
    text = text_of(to_html(make_report(description, metrics, tables)))
    assert "Whom it serves" in text and "Known are age of 450 of 600" in text
    for name in ("under 40", "40 to 54", "55 to 69", "female", "male"):
        assert name in text
    figures = {(f.group, f.metric): f for f in figures_of_run(test, metrics)}
    young = figures["under 40", "auc"]
    assert f"{young.own.value:.2f}" in text
    assert "too few to say" in text and math.isnan(figures["female", "auc"].own.value)
    card = make_card(description, metrics, test, ())
    assert f"| age: under 40 | 150 | {young.own.value:.2f} (" in card


def test_a_report_of_a_table_without_facts_has_no_such_section(page: str) -> None:
    assert "Whom it serves" not in page
