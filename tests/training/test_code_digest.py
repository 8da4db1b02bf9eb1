"""The digests of code: what of a change asks for a new training, and what for a new evaluation."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from skinml.backbones import BACKBONES
from skinml.training import code_digest
from skinml.training.code_digest import (
    EVALUATION,
    HARMLESS,
    PACKAGE,
    TRAINING,
    SameTrainings,
    evaluation_digest,
    reachable,
    trained_by,
    training_digest,
    why_same,
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, to be edited."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "skinml"))


def digests(package: Path) -> tuple[str, str]:
    return tuple(code_digest._digest_of(package, roots) for roots in (TRAINING, EVALUATION))  # type: ignore[return-value]


def edit(package: Path, file: str, old: str, new: str) -> None:
    path = package / file
    text = path.read_text()
    assert text.count(old) == 1, f"{file} says {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new))


# What is edited → file, old text, new text, and whether trainings and evaluations are made anew.
EDITS = {
    "a comment": ("training/loop.py", "done += epochs\n", "done += epochs  # by now\n", ""),
    "a docstring": ("training/steps.py", '"""Nothing to do."""', '"""Nothing at all."""', ""),
    "a help text": ("config.py", '"network to train"', '"the network that is trained"', ""),
    "what a parameter accepts": ("config.py", "low=0, high=0.95", "low=0, high=0.99", ""),
    "a parameter that decides nothing": (
        "config.py",
        '    output_dir: str = _option(\n        "runs"',
        '    colour: str = _option("red", "of the page", decides=False)\n'
        '    output_dir: str = _option(\n        "results"',
        "",
    ),
    "the words of an error": ("training/loop.py", "expected finite ", "expected a number as ", ""),
    "the words of the progress": ("training/inputs.py", '"computing features"', '"looking"', ""),
    "a type": ("data/pipeline.py", "(count: int, batch_size: int)", "(count, batch_size)", ""),
    "a new network": (
        "backbones.py",
        "}\n\n# The three",
        '    "resnet": Backbone("ResNet50", *_INSIDE, 25.6, 98),\n}\n\n# The three',
        "",
    ),
    "a new data set": (
        "data/datasets.py",
        "HAM10000, ISIC2019, PAD_UFES_20)}",
        "HAM10000, ISIC2019, PAD_UFES_20, replace(DEMO, name='mine'))}",
        "",
    ),
    "how pictures of the demo are drawn": (
        "data/demo_pictures.py", "OVERSAMPLING = ", "OVERSAMPLING = 1 + ", ""
    ),
    "the tasks of a challenge": (
        "data/isic2017.py", '"keratosis_auc": "seborrheic', '"sk_auc": "seborrheic', "evaluation"
    ),
    "a metric": (
        "evaluation/metrics.py",
        "    Metric(\"log_loss\"",
        "    Metric(\"error\", lambda c: 1 - _accuracy(c), \"Error\"),\n    Metric(\"log_loss\"",
        "evaluation",
    ),
    "whether a metric has an interval in each run": (
        "evaluation/metrics.py", '"Log loss", range', '"Log loss", headline=True, range',
        "evaluation",
    ),
    "what reports call a metric": (
        "evaluation/metrics.py", '"Log loss", range', '"Cross-entropy", range', ""
    ),
    "the number of resamples": ("evaluation/statistics.py", "RESAMPLES = 2000", "RESAMPLES = 4000",
                                "evaluation"),
    "a default": ("config.py", '    dropout: float = _option(\n        0.2',
                  '    dropout: float = _option(\n        0.3', "training"),
    "a training step": ("training/loop.py", "best.restore(classifier.model)\n            best =",
                        "best =", "training"),
    "a constant of the training": ("models/classifier.py", "MOMENTUM = 0.9", "MOMENTUM = 0.99",
                                   "training"),
    "what a split draws": ("data/protocols.py", "if (needed <= quota).all()",
                           "if (needed < quota).all()", "training"),
    "how the views are averaged": ("models/classifier.py", "ops.mean(by_view, axis=0)",
                                   "ops.max(by_view, axis=0)", "training"),
    "near-duplicates": ("data/duplicates.py", "NEAR_BITS = 2", "NEAR_BITS = 3", "training"),
    "the AUC, which chooses the kept epoch too": ("evaluation/metrics.py",
                                                  "below[:, low] + below[:, high]",
                                                  "below[:, low] + below[:, low]",
                                                  "training evaluation"),
}  # fmt: skip


@pytest.mark.parametrize("what", EDITS)
def test_a_change_asks_for_what_it_may_change(package: Path, what: str) -> None:
    file, old, new, asked_for = EDITS[what]
    before = digests(package)
    edit(package, file, old, new)
    changed = [a != b for a, b in zip(before, digests(package), strict=True)]
    assert changed == ["training" in asked_for, "evaluation" in asked_for]


def test_a_definition_may_move_to_another_file(package: Path) -> None:
    """A tidier house asks for no new training."""
    before = digests(package)
    text = (package / "data/pipeline.py").read_text()
    moved = re.search(r"\ndef slices\(.*?\n\n\n", text, re.DOTALL)
    assert moved
    (package / "data/parts.py").write_text(
        f'"""Parts."""\n\nfrom collections.abc import Iterator\n{moved[0]}'
    )
    (package / "data/pipeline.py").write_text(text.replace(moved[0], "\n"))
    for path in package.rglob("*.py"):
        old = "from skinml.data.pipeline import prefetch, slices"
        new = "from skinml.data.parts import slices\nfrom skinml.data.pipeline import prefetch"
        path.write_text(path.read_text().replace(old, new))
    edit(package, "training/inputs.py", "    slices,\n    transform,\n    vary,\n)",
         "    transform,\n    vary,\n)\nfrom skinml.data.parts import slices")  # fmt: skip
    assert digests(package) == before


def test_each_network_has_its_own_row_in_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        training_digest("mobilenet")
        == training_digest("mobilenetv2")[:13] + (training_digest("mobilenet")[-4:])
    )
    assert len({training_digest(model) for model in BACKBONES}) == len(BACKBONES)
    row = BACKBONES["mobilenet"]
    before = training_digest.__wrapped__("mobilenet")
    monkeypatch.setitem(BACKBONES, "mobilenet", row._replace(published_size=0))
    assert training_digest.__wrapped__("mobilenet") == before
    monkeypatch.setitem(BACKBONES, "mobilenet", row._replace(offset=0.0))
    assert training_digest.__wrapped__("mobilenet") != before


def test_all_that_a_training_is_made_of_is_in_its_digest() -> None:
    """Methods are reached through their class, which may be named in annotations alone."""
    names = {name for name, _ in reachable(PACKAGE, TRAINING)}
    assert {
        "training.backend._keep_order_of_sums",
        "config.Config",
        "data.duplicates.perceptual_hash",
        "data.pipeline.plan_epoch",
        "data.prepared.PreparedSet",
        "evaluation.metrics.auc",
        "models.classifier._backbone",
        "models.inference.answer",
        "training.steps._Jax",
        "training.steps._TensorFlow",
        "training.inputs.frozen_inputs",
        "training.loop._optimizer",
    } <= names
    assert not {name.rpartition(".")[0] for name in names} & HARMLESS
    assert not any(name.startswith(("tracking", "store", "compare")) for name in names)


def test_a_root_that_is_gone_is_no_silent_hole() -> None:
    with pytest.raises(ValueError, match=r"training\.fit: expected to be defined in skinml"):
        reachable(PACKAGE, {"training": ("fit",)})


@pytest.fixture
def same(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def declare(now: str, **earlier: str) -> None:
        monkeypatch.setattr(code_digest, "SAME_TRAININGS", SameTrainings(now, earlier))

    return declare


def test_earlier_code_counts_as_todays_where_that_is_declared(same: Callable[..., None]) -> None:
    now = training_digest("mobilenet")
    common, own = now.split("-")
    assert why_same(now, "mobilenet") == ""
    same(common, aaaa="renamed", cccc="faster")
    assert why_same(f"aaaa-{own}", "mobilenet") == "renamed"
    assert why_same("cccc", "mobilenet") == "faster", "runs had no row of their network once"
    assert why_same("aaaa-0000", "mobilenet") is None, "another row of the network"
    assert why_same(f"bbbb-{own}", "mobilenet") is None
    assert why_same("", "mobilenet") is None


def test_a_declaration_of_one_network_is_not_that_of_another(same: Callable[..., None]) -> None:
    common, own = training_digest("mobilenet").split("-")
    same(common, **{f"aaaa-{own}": "only EfficientNet's differs"})
    other = training_digest("mobilenetv2")[-4:]
    assert why_same(f"aaaa-{own}", "mobilenet") == "only EfficientNet's differs"
    assert why_same(f"aaaa-{other}", "mobilenetv2") is None


def test_a_declaration_is_void_for_later_code(same: Callable[..., None]) -> None:
    same("0123456789ab", aaaa="renamed")
    assert why_same("aaaa", "mobilenet") is None


def test_runs_of_before_there_were_two_digests_are_told_by_that_of_whole_files() -> None:
    assert trained_by({"training_digest": "a-b", "code_digest": "c"}) == "a-b"
    assert trained_by({"code_digest": "c"}) == "c"
    assert trained_by({}) == ""


def test_digests_are_hexadecimal_and_of_stated_lengths() -> None:
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]{4}", training_digest("nasnetmobile"))
    assert re.fullmatch(r"[0-9a-f]{12}", evaluation_digest())
