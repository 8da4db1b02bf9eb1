"""Scoring a file of predictions: the challenge's figures, and every mistake by its name."""

import csv
import io
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    roc_auc_score,
    roc_curve,
)

from skinml.base.errors import UserError, run_command
from skinml.data.isic2017 import CHALLENGE_TASKS, CLASSES, CSV_COLUMNS, OFFICIAL_PARTS
from skinml.evaluation.metrics import point_metrics
from skinml.evaluation.predictions import Predictions, read_predictions, write_predictions
from skinml.evaluation.statistics import bootstrap_intervals
from skinml.score import FORMATS, SENSITIVITIES, Score, main, score_file

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "results" / "challenge-mobilenetv2-16" / "seed1" / "predictions_test.csv"
OFFICIAL = ROOT.parent / "shared" / "isic2017" / OFFICIAL_PARTS[-1].ground_truth

# Two melanomas, two nevi, two keratoses.
IDS = [f"ISIC_000000{number}" for number in range(6)]
LABELS = dict(zip(IDS, np.repeat(CLASSES, 2).tolist(), strict=True))
GOOD = [f"{image_id},0.{digit},0.{9 - digit}" for digit, image_id in enumerate(IDS, 1)]


def write_labels(path: Path, labels: dict[str, str]) -> Path:
    """A ground truth in the official layout and spelling."""
    lines = [",".join(CSV_COLUMNS)]
    for image_id, label in labels.items():
        lines.append(f"{image_id},{float(label == CLASSES[0])},{float(label == CLASSES[2])}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_labels(tmp_path / "labels.csv", LABELS)


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    def written(*lines: str) -> Path:
        path = tmp_path / "submission.csv"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return written


@pytest.fixture
def refused(labels: Path, file: Callable[..., Path]) -> Callable[..., str]:
    """The text by which lines of predictions are refused."""

    def text(*lines: str) -> str:
        with pytest.raises(UserError) as caught:
            score_file(file(*lines), labels)
        message = str(caught.value)
        assert message.startswith(f"{file(*lines)} cannot be scored: ")
        assert ",".join(CSV_COLUMNS).replace(",", ", ") in message.splitlines()[-1]
        return message

    return text


def values(scored: Score) -> dict[tuple[str, str], float]:
    return {(value.task, value.metric): value.value for value in scored.values}


def drawn(rng: np.random.Generator, images: int = 240) -> Predictions:
    """A network that knows a little; scores of two decimals, so that there are ties."""
    labels = rng.permutation(np.repeat(np.arange(3), images // 3))
    scores = rng.dirichlet((1, 1, 1), size=images) * 0.8 + 0.2 * np.eye(3)[labels]
    ids = np.array([f"ISIC_{number:07d}" for number in rng.permutation(images)])
    return Predictions(ids, labels, scores.round(2), CLASSES)


def as_labels(table: Predictions) -> dict[str, str]:
    pairs = zip(table.image_ids, table.labels, strict=True)
    return {str(image_id): CLASSES[label] for image_id, label in pairs}


def submission(table: Predictions) -> list[str]:
    rows = zip(table.image_ids, table.scores, strict=True)
    return [f"{image_id},{scores[0]},{scores[2]}" for image_id, scores in rows]


@pytest.fixture
def some(rng: np.random.Generator, tmp_path: Path) -> tuple[Predictions, Path]:
    """A predictions table in no order, and its ground truth."""
    table = drawn(rng)
    return table, write_labels(tmp_path / "truth.csv", as_labels(table))


def lines_between_points(positive: np.ndarray, scores: np.ndarray) -> float:
    """The area below the precision-recall curve by the trapezoidal rule, threshold by threshold."""
    points = [(0.0, 1.0)]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        answer = scores >= threshold
        points.append((positive[answer].sum() / positive.sum(), positive[answer].mean()))
    return float(sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points)))


@pytest.mark.parametrize("decimals", [1, 2, 9])
def test_the_specificity_at_a_sensitivity_is_the_challenges_program_s(
    rng: np.random.Generator, tmp_path: Path, file: Callable[..., Path], decimals: int
) -> None:
    """Its loop over the points of scikit-learn's curve; ties may leave a better threshold out."""
    for _ in range(5):
        table = drawn(rng)
        table = Predictions(table.image_ids, table.labels, table.scores.round(decimals), CLASSES)
        truth = write_labels(tmp_path / "truth.csv", as_labels(table))
        got = values(score_file(file(*submission(table)), truth))
        for index, task in zip((0, 2), CHALLENGE_TASKS, strict=True):
            false_alarms, found, _ = roc_curve(table.labels == index, table.scores[:, index])
            for least in SENSITIVITIES:
                expected = next(
                    1 - rate
                    for rate, share in zip(false_alarms, found, strict=True)
                    if share >= least
                )
                assert got[task, f"specificity_at_sensitivity_{least:g}"] == pytest.approx(expected)


def test_the_figures_are_scikit_learn_s(
    some: tuple[Predictions, Path], file: Callable[..., Path]
) -> None:
    table, truth = some
    got = values(score_file(file(*submission(table)), truth))
    areas = []
    for index, task in zip((0, 2), CHALLENGE_TASKS, strict=True):
        positive, scores = table.labels == index, table.scores[:, index]
        areas.append(roc_auc_score(positive, scores))
        (tn, fp), (fn, tp) = confusion_matrix(positive, scores > 0.5)
        expected = {
            "auc": areas[-1],
            "average_precision": lines_between_points(positive, scores),
            "average_precision_steps": average_precision_score(positive, scores),
            "accuracy": (tp + tn) / 240,
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
        }
        for metric, value in expected.items():
            assert got[task, metric] == pytest.approx(value, abs=1e-12), (task, metric)
    assert got["mean", "auc"] == pytest.approx(sum(areas) / 2, abs=1e-12)


def test_the_specificity_at_a_sensitivity_is_that_of_the_highest_threshold_that_reaches_it(
    some: tuple[Predictions, Path], file: Callable[..., Path]
) -> None:
    """Against a plain search over all thresholds, without ties."""
    table, truth = some
    untied = Predictions(
        table.image_ids, table.labels, table.scores + np.arange(240)[:, None] * 1e-5, CLASSES
    )
    got = values(score_file(file(*submission(untied)), truth))
    for index, task in zip((0, 2), CHALLENGE_TASKS, strict=True):
        positive, scores = untied.labels == index, untied.scores[:, index]
        for wanted in SENSITIVITIES:
            threshold = max(t for t in scores if (scores[positive] >= t).mean() >= wanted)
            assert got[task, f"specificity_at_sensitivity_{wanted:g}"] == pytest.approx(
                (scores[~positive] < threshold).mean()
            )


def test_a_score_of_one_half_is_a_negative_answer(labels: Path, file: Callable[..., Path]) -> None:
    """The challenge's program asked for more than 0.5."""
    got = values(score_file(file(*(f"{image_id},0.5,0.500001" for image_id in IDS)), labels))
    assert (got["melanoma", "sensitivity"], got["melanoma", "specificity"]) == (0, 1)
    assert got["seborrheic_keratosis", "sensitivity"] == 1
    assert got["seborrheic_keratosis", "specificity"] == 0
    assert got["mean", "auc"] == 0.5


def test_a_predictions_table_scores_exactly_what_its_run_logged(tmp_path: Path) -> None:
    """The published run: METRICS' figures; also against the official file, where it is present."""
    table = read_predictions(PUBLISHED)
    logged = point_metrics(table)
    intervals = bootstrap_intervals(table, ("melanoma_auc", "keratosis_auc", "challenge_auc"))
    derived = write_labels(tmp_path / "derived.csv", as_labels(table))
    for truth in (derived, OFFICIAL) if OFFICIAL.exists() else (derived,):
        scored = score_file(PUBLISHED, truth)
        got = values(scored)
        assert got["mean", "auc"] == logged["challenge_auc"]
        assert got["melanoma", "auc"] == logged["melanoma_auc"]
        assert got["seborrheic_keratosis", "auc"] == logged["keratosis_auc"]
        ends = [(v.ci_low, v.ci_high) for v in scored.values if v.metric == "auc"]
        assert ends == list(intervals.values())
        assert scored.official_test and scored.images == 600
        assert scored.positives == {"melanoma": 117, "seborrheic_keratosis": 90}


def test_other_labels_are_not_called_official(tmp_path: Path) -> None:
    """One id or one class that differs is enough; so are generated images."""
    table = read_predictions(PUBLISHED)
    ids, index = table.image_ids.copy(), int(np.flatnonzero(table.labels == 1)[0])
    ids[0] = "ISIC_0000001"
    classes = table.labels.copy()
    classes[index] = 0
    for changed in (
        Predictions(ids, table.labels, table.scores, CLASSES),
        Predictions(table.image_ids, classes, table.scores, CLASSES),
    ):
        write_predictions(changed, tmp_path / "table.csv")
        truth = write_labels(tmp_path / "truth.csv", as_labels(changed))
        scored = score_file(tmp_path / "table.csv", truth)
        assert not scored.official_test
        assert scored.labels_are.startswith("not the 600 official test images")
    generated = {f"ISIC_900000{number}": label for number, label in enumerate(CLASSES)}
    truth = write_labels(tmp_path / "truth.csv", generated)
    (tmp_path / "table.csv").write_text("".join(f"{i},0.1,0.2\n" for i in generated))
    assert "generated demo images" in score_file(tmp_path / "table.csv", truth).labels_are


@pytest.mark.parametrize(
    "spelled",
    [
        lambda lines: lines,
        lambda lines: lines[::-1],
        lambda lines: [",".join(CSV_COLUMNS), *lines],
        lambda lines: ["Image ID, Melanoma, Seborrheic Keratosis", *lines],
        lambda lines: [line.replace(",", ".jpg,", 1) for line in lines],
        lambda lines: [line.replace(",", " , ") for line in lines],
        lambda lines: ["", lines[0], "", *lines[1:], ""],
        lambda lines: ["\ufeff" + lines[0], *lines[1:]],
        lambda lines: [line + "\r" for line in lines],
        lambda lines: ['"' + line.replace(",", '","') + '"' for line in lines],
    ],
    ids=[
        "plain",
        "reversed",
        "header",
        "Header",
        ".jpg",
        "spaces",
        "empty lines",
        "BOM",
        "CRLF",
        "quotes",
    ],
)
def test_the_spelling_and_the_order_of_a_file_change_nothing(
    spelled: Callable[[list[str]], list[str]],
    some: tuple[Predictions, Path],
    file: Callable[..., Path],
) -> None:
    table, truth = some
    lines = submission(table)
    expected = score_file(file(*lines), truth)
    assert score_file(file(*spelled(lines)), truth) == expected


def test_permuted_labels_change_nothing(
    some: tuple[Predictions, Path], file: Callable[..., Path]
) -> None:
    table, truth = some
    expected = score_file(file(*submission(table)), truth)
    write_labels(truth, dict(reversed(as_labels(table).items())))
    assert score_file(file(*submission(table)), truth) == expected


# One mistake each: the lines, and what the refusal must name.
MISTAKES = {
    "unknown": ([*GOOD, "ISIC_0000099,0.1,0.1"], ["unknown ids", "ISIC_0000099 (line 7)"]),
    "missing": (GOOD[1:], ["missing ids", "(1):\n    ISIC_0000000"]),
    "doubled": ([*GOOD, GOOD[2]], ["doubled ids", "ISIC_0000002 (lines 3 and 7)"]),
    "doubled by .jpg": (
        [*GOOD, GOOD[2].replace(",", ".JPG,", 1)],
        ["doubled ids", "ISIC_0000002 (lines 3 and 7)"],
    ),
    "no id": ([*GOOD, ",0.1,0.1"], ["without an image id", "line 7: ,0.1,0.1"]),
    "NaN": (
        [f"{IDS[0]},nan,0.1", *GOOD[1:]],
        ["scores that are NaN (1):\n    ISIC_0000000 (line 1), melanoma"],
    ),
    "infinite": (
        [*GOOD[:5], f"{IDS[5]},0.1,-Infinity"],
        ["infinite scores (1):\n    ISIC_0000005 (line 6), seborrheic_keratosis"],
    ),
    "above 1": ([f"{IDS[0]},1.01,0.1", *GOOD[1:]], ["outside 0 to 1 (1)", "melanoma: 1.01"]),
    "below 0": ([f"{IDS[0]},-1e-9,0.1", *GOOD[1:]], ["outside 0 to 1 (1)", "melanoma: -1e-9"]),
    "text": ([*GOOD[:5], f"{IDS[5]},high,0.1"], ["no number (1)", "(line 6), melanoma: 'high'"]),
    "first line": ([f"{IDS[0]},high,low", *GOOD[1:]], ["no number (2)", "(line 1)"]),
    "no score": ([*GOOD[:5], f"{IDS[5]},,0.1"], ["no number (1)", "melanoma: ''"]),
    "digit groups": ([*GOOD[:5], f"{IDS[5]},0_1,0.1"], ["no number (1)", "melanoma: '0_1'"]),
    "too few columns": (
        [*GOOD[:5], f"{IDS[5]},0.1"],
        ["columns (1):\n    line 6", "has 2, expected 3"],
    ),
    "too many columns": (
        [*GOOD[:5], GOOD[5] + ",1"],
        ["columns (1):\n    line 6", "has 4, expected 3"],
    ),
    "semicolons": (
        [line.replace(",", ";") for line in GOOD],
        ["columns", "line 1: ISIC_0000000;0.1;0.8 has 1"],
    ),
    "columns swapped": (
        ["image_id,seborrheic_keratosis,melanoma", *GOOD],
        ["in another order (1):\n    line 1: image_id,seborrheic_keratosis,melanoma"],
    ),
    "other names": (["image,MEL,SK", *GOOD], ["header with other names", "line 1: image,MEL,SK"]),
    "other width": (["image_id,melanoma", *GOOD], ["header with other names", "image_id,melanoma"]),
    "header only": ([",".join(CSV_COLUMNS)], ["missing ids (in the labels only) (6)"]),
    "empty": ([], ["empty predictions"]),
    "blank": (["", " ", ",,"], ["empty predictions"]),
    "label differs": (
        ["image_id,label,melanoma,nevus,seborrheic_keratosis"]
        + [f"{image_id},nevus,0.1,0.8,0.1" for image_id in IDS],
        ["classes that differ from the labels (4)", "ISIC_0000000 (line 2): nevus, in the labels"],
    ),
}


def told_by_kind(message: str) -> dict[str, list[str]]:
    """The items of a refusal by their kind."""
    kinds: dict[str, list[str]] = {}
    for line in message.splitlines()[1:-1]:
        if line.startswith("    "):
            kinds[list(kinds)[-1]].append(line.strip())
        else:
            kinds[line.strip().removesuffix(":")] = []
    return kinds


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_by_its_name(mistake: str, refused: Callable[..., str]) -> None:
    lines, told = MISTAKES[mistake]
    message = refused(*lines)
    for text in told:
        assert text in message
    # One mistake is one kind: nothing is accused beside it, but where the ids are unreadable.
    assert len(told_by_kind(message)) == (2 if mistake == "semicolons" else 1), message


def test_all_mistakes_are_told_at_once_the_first_few_of_each(refused: Callable[..., str]) -> None:
    unknown = [f"ISIC_00001{number:02d},0.1,0.1" for number in range(40)]
    message = refused(f"{IDS[0]},nan,2", GOOD[1], GOOD[1], f"{IDS[2]},inf,x", *unknown, "a,b")
    lines = told_by_kind(message)
    assert set(lines) == {
        "scores that are NaN (1)",
        "scores outside 0 to 1 (1)",
        "doubled ids (1)",
        "infinite scores (1)",
        "scores that are no number (1)",
        "unknown ids (not in the labels) (40)",
        "wrong number of columns (1)",
        "missing ids (in the labels only) (3)",
    }
    listed = lines["unknown ids (not in the labels) (40)"]
    assert len(listed) == 6 and listed[-1] == "… and 35 more"


def test_a_file_of_something_else_is_not_told_in_full(refused: Callable[..., str]) -> None:
    assert len(refused("x" * 50_000, "y" * 50_000)) < 1500


def test_an_id_that_the_labels_spell_with_an_ending_keeps_it(
    tmp_path: Path, file: Callable[..., Path]
) -> None:
    """`a` and `a.jpg` are two images where the labels say so."""
    ids = ["a", "a.jpg", "b", "c"]
    truth = write_labels(tmp_path / "t.csv", dict(zip(ids, [*CLASSES, "nevus"], strict=True)))
    scored = score_file(file("a.jpg,0.1,0.1", "a,0.9,0.2", "b.png,0.1,0.9", "c,0,0"), truth)
    assert values(scored)["melanoma", "auc"] == 1
    assert values(scored)["seborrheic_keratosis", "auc"] == 1


def test_undecodable_bytes_are_refused_with_their_line(labels: Path, tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("\n".join(GOOD).encode() + b"\nN\xe4vus,0,0\n")
    with pytest.raises(UserError, match=r"undecodable bytes \(1\):\n    line 7: byte 0xe4"):
        score_file(path, labels)


def test_files_that_cannot_be_read_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        score_file(tmp_path / "no.csv", tmp_path / "none.csv")
    assert "unreadable predictions (1):\n    No such file" in str(caught.value)
    assert "missing ground truth (1):\n    none.csv" in str(caught.value)
    with pytest.raises(UserError, match=r"unreadable predictions \(1\):\n    Is a directory"):
        score_file(tmp_path, tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (["melanoma", "nevus"], ["0 of 6 images are seborrheic_keratosis"]),
        (["nevus"], ["0 of 6 images are melanoma", "0 of 6 images are seborrheic_keratosis"]),
        (["melanoma"], ["6 of 6 images are melanoma", "0 of 6 images are seborrheic_keratosis"]),
    ],
)
def test_labels_of_a_single_class_are_refused(
    classes: list[str], told: list[str], tmp_path: Path, file: Callable[..., Path]
) -> None:
    given = {image_id: classes[number % len(classes)] for number, image_id in enumerate(IDS)}
    truth = write_labels(tmp_path / "truth.csv", given)
    with pytest.raises(UserError, match="single class") as caught:
        score_file(file(*GOOD), truth)
    assert all(text in str(caught.value) for text in told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty file"),
        ("image,melanoma,nevus\na,1,0\n", "wrong CSV columns"),
        (",".join(CSV_COLUMNS) + "\na,1,0\na,0,1\nb,2,0\n", "duplicate ids"),
    ],
)
def test_a_ground_truth_that_is_none_is_refused(
    text: str, told: str, tmp_path: Path, file: Callable[..., Path]
) -> None:
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(UserError, match=told):
        score_file(file(*GOOD), tmp_path / "truth.csv")


@pytest.fixture
def printed(
    labels: Path, file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    def output(form: str) -> str:
        assert main([str(file(*GOOD)), "--labels", str(labels), "--format", form]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return output


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_what_was_scored_and_what_it_is_not_for(
    form: str, printed: Callable[[str], str]
) -> None:
    text = " ".join(printed(form).split())
    assert "not for clinical use" in text
    assert "not the 600 official test images but 6 others" in text
    assert "6 images" in text or '"images": 6' in text or ",6,False," in text


def test_json_and_csv_hold_every_figure(
    printed: Callable[[str], str], labels: Path, file: Callable[..., Path]
) -> None:
    scored = score_file(file(*GOOD), labels)
    document = json.loads(printed("json"))
    rows = list(csv.DictReader(io.StringIO(printed("csv"))))
    assert len(rows) == len(scored.values) == 19
    for value, row in zip(scored.values, rows, strict=True):
        assert document[value.task][value.metric] == value.value == float(row["value"])
        if value.ci_low is not None:
            assert document[value.task]["auc_ci_low"] == value.ci_low == float(row["ci_low"])
            assert document[value.task]["auc_ci_high"] == value.ci_high == float(row["ci_high"])
    assert document["official_test"] is False and document["threshold"] == 0.5


def test_two_images_of_a_class_have_no_interval(printed: Callable[[str], str]) -> None:
    """The AUC of two melanomas may be 1 by chance: 1.000 to 1.000 said it could not."""
    for form in ("terminal", "markdown"):
        [line] = [line for line in printed(form).splitlines() if "95 % interval" in line]
        assert line.count("too few images") == 3
        # Of no other figure, which the remark says, nor is Wilson's a bootstrap.
        told = " ".join(printed(form).split())
        assert "Intervals of the AUCs alone" in told and "for an AUC of 0 or 1" in told
    document = json.loads(printed("json"))
    assert document["melanoma"]["auc_ci_low"] is None is document["mean"]["auc_ci_high"]


def test_the_tables_show_each_figure_with_its_interval(
    printed: Callable[[str], str], labels: Path, file: Callable[..., Path]
) -> None:
    by_place = {(v.task, v.metric): v for v in score_file(file(*GOOD), labels).values}
    for form in ("terminal", "markdown"):
        rows = {
            cells[1].strip(): [cell.strip() for cell in cells[2:5]]
            for line in printed(form).replace("│", "|").splitlines()
            if len(cells := line.split("|")) == 6
        }
        for place, task in enumerate((*CHALLENGE_TASKS, "mean")):
            value = by_place[task, "auc"]
            assert rows["AUC"][place] == f"{value.value:.3f}"
            assert rows["95 % interval"][place] == "too few images"
        sensitivity = by_place["melanoma", "sensitivity"].value
        assert rows["sensitivity at 0.5"] == [f"{sensitivity:.3f}", *rows["sensitivity at 0.5"][1:]]
        assert rows["images of the class"] == ["2", "2", ""]


def test_faulty_labels_are_blamed_themselves(
    labels: Path, file: Callable[..., Path], tmp_path: Path
) -> None:
    """Of files that were swapped, the one that is no ground truth is named, and the swap."""
    predictions = file(*GOOD)
    with pytest.raises(UserError) as caught:
        score_file(labels, predictions)
    first, *_, last = str(caught.value).splitlines()
    assert first.startswith(f"{labels} cannot be scored, as {predictions} is no ground truth")
    assert "expected of --labels: " in last and last.endswith("are the two files swapped?")
    with pytest.raises(UserError) as caught:
        score_file(predictions, tmp_path / "none.csv")
    assert "none.csv is no ground truth" in str(caught.value)
    assert "swapped" not in str(caught.value) and "missing ids" not in str(caught.value)


def test_a_table_of_another_test_part_is_told_how_to_get_the_official_one(
    refused: Callable[..., str],
) -> None:
    text = refused(
        "image_id,label,melanoma,nevus,seborrheic_keratosis", "ISIC_7777777,nevus,.1,.8,.1"
    )
    assert "unknown ids" in text and text.splitlines()[-1].count("--protocol challenge") == 1
    assert "--protocol challenge" not in refused("ISIC_7777777,.1,.8")


def test_the_command_reports_a_refusal_without_a_traceback(
    labels: Path, file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(*GOOD[1:])
    assert run_command(lambda: main([str(path), "--labels", str(labels)])) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"skinml: error: {path} cannot be scored")
    assert "ISIC_0000000" in captured.err
    assert run_command(lambda: main([str(path)])) == 2
    assert "--labels" in capsys.readouterr().err


def test_markdown_takes_no_tags_from_a_name(
    labels: Path, file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(*GOOD)
    odd = path.rename(path.with_name("a`<img src=x>`.csv"))
    assert main([str(odd), "--labels", str(labels), "--format", "markdown"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"`{odd.with_name('a<img src=x>.csv')}`"


def test_a_ground_truth_that_is_a_pipe_is_told(file: Callable[..., Path], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=r"unreadable ground truth.*\n.*a pipe or device"):
        score_file(file(*GOOD), pipe)
