"""The simulations that prove the statistics: a quick round, and that they would notice an error."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.simulation import (
    __main__,
    coverage,
    population,
    power,
    references,
    running,
    size,
    studies,
    subgroups,
)
from benchmarks.simulation.checks import Check
from benchmarks.simulation.running import run
from benchmarks.simulation.settings import Settings
from skinml.compare import paired
from skinml.compare.paired import Estimate
from skinml.evaluation.metrics import point_metrics
from skinml.evaluation.operating_point import Rule, Scored
from skinml.evaluation.predictions import Predictions
from skinml.evaluation.subgroups import Figure

ROOT = Path(__file__).parents[2]

# Enough where what is tested is the benchmark, not the metrics.
TWO = {metric: paired.TESTED[metric] for metric in ("accuracy", "melanoma_auc")}


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Leave only the named studies in the benchmark."""

    def keep(*names: str) -> None:
        monkeypatch.setattr(running, "STUDIES", {n: studies.STUDIES[n] for n in names})

    return keep


def failed(checks: list[Any]) -> set[str]:
    return {check.name for check in checks if not check.passed}


def test_a_quick_round_passes(only: Callable[..., None]) -> None:
    """Coverage of the normal intervals, size of the contrasts and of McNemar's test."""
    only("intervals, 550 images", "batch sizes", "McNemar, 550 images")
    checks, seconds = run(("coverage", "size"), Settings(draws=60))
    assert len(checks) == 7 + 14 + 2 + 2 and len(seconds) == 3
    assert failed(checks) == set()


def test_an_error_that_is_too_small_is_noticed(
    only: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpaired or forgotten variance: half the standard error covers two times in three."""
    honest = paired.estimate

    def bold(predictions: Predictions, metric: str) -> Estimate:
        found = honest(predictions, metric)
        return Estimate(found.value, found.influence / 2)

    def all_bold(predictions: Predictions, metrics: tuple[str, ...]) -> dict[str, Estimate]:
        return {metric: bold(predictions, metric) for metric in metrics}

    monkeypatch.setattr(coverage, "estimates", all_bold)
    monkeypatch.setattr(size, "estimate", bold)
    monkeypatch.setattr(coverage, "TESTED", TWO)
    only("intervals, 550 images", "batch sizes")
    checks, _ = run(("coverage", "size"), Settings(draws=100))
    # Coverage of differences, spread of singles and differences; the contrasts by two metrics.
    assert sum(not check.passed for check in checks) == len(checks) == 2 + 4 + 2


def test_a_biased_value_is_noticed(
    only: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two standard errors off: half of the intervals miss, though their width is right."""
    honest = paired.difference

    def biased(first: Estimate, second: Estimate) -> Estimate:
        found = honest(first, second)
        return Estimate(found.value + 2 * found.standard_error, found.influence)

    monkeypatch.setattr(coverage, "difference", biased)
    monkeypatch.setattr(coverage, "TESTED", TWO)
    only("intervals, 550 images")
    checks, _ = run(("coverage",), Settings(draws=100))
    assert {f"{metric}, difference" for metric in TWO} <= failed(checks)


def test_groups_made_by_chance_differ_as_often_as_the_tests_say(only: Callable[..., None]) -> None:
    only("subgroups, 550 images")
    checks, _ = run(("subgroups",), Settings(draws=50))
    assert len(checks) == 2 * 6 + 1
    assert failed(checks) == set()


def test_groups_that_are_told_apart_too_boldly_are_noticed(
    only: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """P-values that are far too small."""
    honest = subgroups.figures_of_groups

    def bold(*arguments: Any) -> list[Figure]:
        return [f if math.isnan(f.p) else f._replace(p=f.p**3) for f in honest(*arguments)]

    monkeypatch.setattr(subgroups, "figures_of_groups", bold)
    only("subgroups, 550 images")
    checks, _ = run(("subgroups",), Settings(draws=100))
    tests = [check for check in checks if check.group.startswith("tests")]
    assert len(tests) == 6 and not any(check.passed for check in tests)


def test_a_threshold_that_is_taken_for_known_is_noticed(
    only: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the chance of the validation part intervals of the rates are too short."""

    def fixed(seen: Scored, rule: Rule, draws: int, seed: int) -> np.ndarray:
        return np.full(draws, seen.choose(rule)[0])

    monkeypatch.setattr(Scored, "drawn", fixed)
    only("operating points, 600 images")
    checks, _ = run(("points",), Settings(draws=60))
    assert {"sensitivity:0.82, sensitivity", "specificity:0.9, specificity"} <= failed(checks)


@pytest.mark.parametrize("name", ["holm", "mcnemar", "smallest_detectable", "auc_influence"])
def test_a_wrong_formula_fails_its_reference(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each reference is compared with the real function, not with itself: off by 1 %."""
    honest = getattr(references, name)
    monkeypatch.setattr(
        references, name, lambda *given: (0.99 * np.asarray(honest(*given))).tolist()
        if name == "holm" else 0.99 * honest(*given),
    )  # fmt: skip
    compare = {
        "holm": references._holm_reference,
        "mcnemar": references._mcnemar_reference,
        "smallest_detectable": references._detectable_reference,
        "auc_influence": references._delong,
    }[name]
    [tolerance] = [row[2] for row in references.REFERENCES if row[1] is compare]
    assert compare(np.random.default_rng(0)) > tolerance
    monkeypatch.undo()
    assert compare(np.random.default_rng(0)) <= tolerance


def test_the_same_seed_gives_the_same_figures_whatever_the_jobs(only: Callable[..., None]) -> None:
    only("McNemar, 550 images")
    settings = Settings(draws=120)
    first, _ = run(("size",), settings)
    again, _ = run(("size",), settings)
    other, _ = run(("size",), Settings(draws=120, seed=1))
    assert [c.row() for c in first] == [c.row() for c in again] != [c.row() for c in other]


def test_the_made_up_networks_are_like_real_ones() -> None:
    """Near the first real run (results/README.md), and two of them err in the same images."""
    truth = population.true_values(
        population.OFFICIAL, (1.0, 1.0), ("accuracy", "melanoma_auc", "keratosis_auc"), 100_000, 0
    )
    assert truth["accuracy"][0] == pytest.approx(0.75, abs=0.03)
    assert truth["melanoma_auc"][0] == pytest.approx(0.80, abs=0.03)
    assert truth["keratosis_auc"][0] == pytest.approx(0.91, abs=0.03)
    first, second = population.draw_networks(
        population.OFFICIAL, np.repeat(np.arange(3), 10_000), (1.0, 1.0), np.random.default_rng(0)
    )
    errs = [table.predicted != table.labels for table in (first, second)]
    assert np.corrcoef(errs)[0, 1] > 0.4


def test_test_parts_have_the_sizes_and_shares_of_isic_2017() -> None:
    rng = np.random.default_rng(0)
    assert len(population.draw_labels(population.POOLED, rng)) == 550
    assert len(population.draw_labels(population.OFFICIAL, rng)) == 600
    stratified = np.bincount(population.draw_labels(population.STRATIFIED, rng))
    # A fifth of the 521, 1,843 and 386 images of all three official parts.
    assert stratified.tolist() == [104, 369, 77]
    many = np.bincount(population.draw_labels(population.OFFICIAL, rng, 600_000)) / 1000
    np.testing.assert_allclose(many, [117, 393, 90], atol=2)


def test_a_network_is_as_strong_as_it_was_asked_to_be() -> None:
    """The power curves rest on this: the gap that was sought is the gap that is there."""
    settings = Settings(draws=200)
    found = population.gap_of(population.POOLED, "accuracy", lambda _: 0.05, settings)
    assert found.difference == pytest.approx(0.05, abs=0.004)
    [tables] = population.population(population.POOLED, (1.0, found.strength), 100_000, seed=5)
    values = [point_metrics(table)["accuracy"] for table in tables]
    assert values[0] - values[1] == pytest.approx(0.05, abs=0.005)


def test_theory_knows_its_corners() -> None:
    """The size of McNemar's test against its definition, by hand for six discordant images."""
    assert power.power_in_theory(0.0, 0.01) == pytest.approx(0.05)
    assert power.power_in_theory(1.0, 0.01) == pytest.approx(1)
    # Of six images all are discordant: only 6 : 0 and 0 : 6 reach 5 %, 2 of 64.
    assert size.mcnemar_size(6, 1.0) == pytest.approx(2 / 64)
    assert size.mcnemar_size(5, 1.0) == 0
    rng = np.random.default_rng(0)
    rejected = [
        stats.binomtest(int(firsts), int(count)).pvalue < 0.05
        for count in rng.binomial(550, 0.15, 1000)
        for firsts in [rng.binomial(count, 0.5)]
    ]
    assert size.mcnemar_size(550, 0.15) == pytest.approx(np.mean(rejected), abs=0.02)


def test_a_nan_passes_no_check() -> None:
    check = Check("size", "group", "name", math.nan, 0.03, 0.07)
    assert check.judged and not check.passed
    assert check.row()["observed"] is None
    assert Check("size", "group", "name", 0.2, 0.03, 0.07).passed is False
    assert Check("size", "group", "name", 0.2).judged is False


def test_a_failed_check_is_the_exit_code_and_stands_in_the_report(
    only: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    only("McNemar, 550 images")
    arguments = ["--only", "size", "--draws", "100", "--out", str(tmp_path)]
    assert __main__.main(arguments) == 0
    assert "1 of 1 checks passed" in (tmp_path / "README.md").read_text()
    monkeypatch.setattr(size, "mcnemar", lambda *_: 0.01)
    assert __main__.main(arguments) == 1
    assert "FAIL size: McNemar's test, exact" in capsys.readouterr().out
    report = (tmp_path / "README.md").read_text()
    assert "0 of 1 checks passed. Failed: McNemar" in report and "**FAIL**" in report
    assert "100.00 %" in report


@pytest.mark.slow
def test_the_command_passes_every_study_and_writes_a_report_with_figures(tmp_path: Path) -> None:
    """As a user calls it, with a fortieth of the draws and bands as much wider."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks.simulation", "--draws", "50",
         "--jobs", "2", "--json", "--out", tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    checks = json.loads(done.stdout)
    assert {check["section"] for check in checks} == set(studies.SECTIONS)
    assert all(check["passed"] for check in checks)
    figures = {f"{section}.{kind}" for section in studies.SECTIONS for kind in ("png", "pdf")}
    made = {path.name for path in tmp_path.iterdir()}
    assert {"README.md", "checks.csv", "size.png", "power.pdf"} <= made
    assert made <= {"README.md", "checks.csv"} | figures
    rows = (tmp_path / "checks.csv").read_text().splitlines()
    assert len(rows) == len(checks) + 1
    report = (tmp_path / "README.md").read_text()
    assert "50 draws of each study, seed 20170" in report and "| pass |" in report


@pytest.mark.parametrize("option", ["--draws=10", "--jobs=0", "--seed=x", "--only=everything"])
def test_a_wrong_option_is_one_line(option: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.simulation", option],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("skinml: error: ") and done.stderr.count("\n") == 1
