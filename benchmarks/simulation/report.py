"""Checks → the report in Markdown, its figures, a CSV file."""

import csv
import itertools
import math
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from benchmarks.simulation.checks import BOOTSTRAPPED, Check
from benchmarks.simulation.coverage import RESAMPLES
from benchmarks.simulation.population import OFFICIAL, POOLED, SHARED
from benchmarks.simulation.power import LEAST, power_in_theory, targets
from benchmarks.simulation.settings import DRAWS, Settings
from benchmarks.simulation.standing import RESAMPLES_OF_RANKS
from benchmarks.simulation.studies import FIGURES, SECTIONS
from skinml.compare.paired import (
    ALPHA,
    POWER,
    TESTED,
)
from skinml.data.isic2017 import CLASSES
from skinml.evaluation import statistics
from skinml.evaluation.drawing import GREY, PAGE, drawing, save
from skinml.evaluation.metrics import metric_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def shown(value: float, kind: str) -> str:
    if math.isnan(value):
        return "–"
    if kind == "share":
        return f"{100 * value:.2f} %"
    return f"{value:.3f}" if kind == "ratio" else f"{value:.1e}"


def _title(name: str) -> str:
    """A check's name with its metric as a reader writes it."""
    metric = next((part for part in name.split(", ") if part in (*TESTED, *BOOTSTRAPPED)), None)
    return name.replace(metric, metric_title(metric)) if metric else name


def expected(check: Check) -> str:
    low, high = (
        None if bound is None else shown(bound, check.kind) for bound in (check.low, check.high)
    )
    if low and high:
        return f"{low.removesuffix(' %')} to {high}"
    return f"at least {low}" if low else f"at most {high}" if high else "only reported"


def _verdict(check: Check) -> str:
    return "–" if not check.judged else "pass" if check.passed else "**FAIL**"


def _table(checks: Sequence[Check]) -> list[str]:
    lines = [
        "| what | expected | theory | observed | Monte Carlo error | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for group, members in itertools.groupby(checks, key=lambda check: check.group):
        lines.append(f"| **{_title(group)}** | | | | | |")
        lines += [
            f"| {_title(c.name)} | {expected(c)} "
            f"| {'–' if c.theory is None else shown(c.theory, c.kind)} "
            f"| {shown(c.observed, c.kind)} | {shown(c.error, c.kind)} | {_verdict(c)} |"
            for c in members
        ]
    return lines


def report(
    checks: Sequence[Check],
    seconds: dict[str, float],
    settings: Settings,
    command: str,
    state: tuple[str, str],
) -> str:
    """The report in Markdown. `state` is that of the source tree when the run began."""
    judged = [check for check in checks if check.judged]
    failed = [check for check in judged if not check.passed]
    commit, clean = state
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "scipy"))
    lines = [
        "# The statistics, checked by simulation",
        "",
        f"{len(judged) - len(failed)} of {len(judged)} checks passed."
        + (" Failed: " + "; ".join(f"{c.group}, {c.name}" for c in failed) + "." if failed else ""),
        "",
        "```",
        command,
        "```",
        "",
        f"- {settings.draws:,} draws of each study, seed {settings.seed}; truth from "
        f"{settings.truth_images:,} images (gaps: {settings.gap_images:,}); bootstrap intervals of "
        f"{RESAMPLES:,} resamples "
        f"(a comparison takes {statistics.RESAMPLES:,}), ranks of {RESAMPLES_OF_RANKS}.",
        f"- Commit {commit}, " + {"true": "clean tree", "false": "changed tree"}.get(
            clean, "state of the tree unknown") + ".",
        f"- {sum(seconds.values()) / 60:.1f} minutes on {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, load average {psutil.getloadavg()[2]:.1f} at the end; "
        f"Python {platform.python_version()}, {libraries}.",
        "- Population: test parts of 550 images with the class shares of all of ISIC 2017 "
        f"({', '.join(f'{share:.1%}' for share in POOLED.shares)} {', '.join(CLASSES)}) and of 600 "
        f"with those of the official test part ({', '.join(f'{s:.1%}' for s in OFFICIAL.shares)}). "
        "A network sees one normal feature a class, about as well as the first real run did; "
        f"{SHARED:.0%} of a feature's variance is the image's difficulty, alike for all networks.",
        f"- Fewer draws than {DRAWS:,} widen the expected ranges by what four Monte Carlo errors "
        "grow. All figures: [checks.csv](checks.csv).",
        "",
    ]  # fmt: skip
    for section, (title, text) in SECTIONS.items():
        members = [check for check in checks if check.section == section]
        if not members:
            continue
        lines += [f"## {title}", "", text, ""]
        if section in (*FIGURES, "power"):
            lines += [f"![{title}]({section}.png)", ""]
        lines += [*_table(members), ""]
    lines += ["## Time", "", "| study | seconds |", "| --- | --- |"]
    lines += [f"| {name} | {value:.0f} |" for name, value in seconds.items()]
    return "\n".join(lines) + "\n"


def write_csv(checks: Sequence[Check], path: Path) -> None:
    """Every check with all its numbers, one a row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(checks[0].row()), lineterminator="\n")
        writer.writeheader()
        writer.writerows(check.row() for check in checks)


def draw_shares(checks: Sequence[Check], path: Path, label: str) -> None:
    """Dots with two Monte Carlo errors each way, over the range that is required of each."""
    from matplotlib.figure import Figure

    members = [check for check in checks if check.kind == "share" and check.judged]
    groups = [(name, list(of)) for name, of in itertools.groupby(members, key=lambda c: c.group)]
    rows = len(members) + 1.6 * len(groups)
    with drawing():
        figure = Figure(figsize=(PAGE, 0.17 * rows + 0.8), layout="constrained")
        axes = figure.subplots()
        ticks: list[tuple[float, str]] = []
        y = 0.0
        for name, of in groups:
            axes.text(0, y, name, weight="bold", fontsize=8, va="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip
            for check in of:
                y += 1
                _dot(axes, check, y)
                ticks.append((y, _title(check.name)))
            y += 1.6
        axes.set_yticks(*zip(*ticks, strict=True), fontsize=7)
        axes.set_ylim(y - 0.8, -0.8)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(label)
        save(figure, path)


def _dot(axes: "Axes", check: Check, y: float) -> None:
    low = check.low if check.low is not None else 0.0
    high = check.high if check.high is not None else 1.0
    axes.barh(y, 100 * (high - low), 0.9, left=100 * low, color="0.9", linewidth=0)
    if check.theory is not None:
        axes.vlines(100 * check.theory, y - 0.45, y + 0.45, color=GREY, linewidth=1)
    axes.errorbar(100 * check.observed, y, xerr=200 * check.error, color="black", marker="o",
                  markersize=3, markerfacecolor="black" if check.passed else "white",
                  linewidth=0.8)  # fmt: skip


def draw_power(checks: Sequence[Check], path: Path) -> None:
    """Observed power against theory: dots with two Monte Carlo errors upon a line."""
    from matplotlib.figure import Figure

    groups = [list(of) for _, of in itertools.groupby(checks, key=lambda check: check.group)]
    with drawing():
        figure = Figure(figsize=(PAGE, 5.0), layout="constrained")
        panels = figure.subplots(2, 2, sharey=True).T.flat
        # One metric a column, one size a row.
        for axes, points in zip(panels, sorted(groups, key=lambda of: of[0].group), strict=True):
            _curve(axes, points)
        panels[0].legend(loc="lower right")
        for axes in panels[:2]:
            axes.set_ylabel("tests that reject (%)")
        save(figure, path)


def _curve(axes: "Axes", points: Sequence[Check]) -> None:
    """One panel. The theory's standard error is interpolated between the points."""
    points = sorted(points, key=lambda check: check.difference or 0.0)
    metric, design = points[0].group.split(", ")
    at = np.array([check.difference for check in points], dtype=float)
    errors = np.array([check.standard_error for check in points], dtype=float)
    fine = np.linspace(0, 1.04 * at.max(), 200)
    theory = [power_in_theory(x, np.interp(x, at, errors)) for x in fine]
    axes.axhline(100 * POWER, color="0.8", linewidth=0.7, zorder=0)
    axes.axhline(100 * ALPHA, color="0.8", linewidth=0.7, zorder=0)
    axes.plot(fine, 100 * np.array(theory), color=GREY, linewidth=1, label="theory")
    for least, label in ((False, "observed"), (True, LEAST)):
        chosen = [check for check in points if check.name.startswith(LEAST) == least]
        axes.errorbar(
            [check.difference for check in chosen],
            [100 * check.observed for check in chosen],
            yerr=[200 * check.error for check in chosen],
            fmt="o", color="black", markersize=4, linewidth=0.8,
            markerfacecolor="white" if least else "black", label=label,
        )  # fmt: skip
    axes.set_title(f"{metric_title(metric)}, {design}", loc="left")
    axes.set_xlabel("true difference")
    axes.set_xticks(targets(metric))
    axes.set_ylim(0, 102)
    axes.set_yticks([5, 20, 40, 60, 80, 100])


def write(checks: Sequence[Check], text: str, folder: Path) -> None:
    """Write the report, its figures and the CSV into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(checks, folder / "checks.csv")
    for section, axis in FIGURES.items():
        if members := [check for check in checks if check.section == section]:
            draw_shares(members, folder / f"{section}.png", axis)
    if members := [check for check in checks if check.section == "power"]:
        draw_power(members, folder / "power.png")
    (folder / "README.md").write_text(text)
