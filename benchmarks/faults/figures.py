"""The figures of the report, and its table of times."""

from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.faults.training_driver import PHASES

Lines = list[dict[str, Any]]


def phases(lines: Lines) -> dict[str, int]:
    """How many trainings were killed in each of their phases, in their order."""
    killed = Counter(phase for line in lines for phase in line["details"].get("phases", []))
    order = ("start", *PHASES.values())
    return {phase: killed[phase] for phase in order if killed[phase]}


def ratios(lines: Lines) -> dict[str, list[float]]:
    """The times of disturbed runs over those of undisturbed ones, by outage; and of all."""
    found: dict[str, list[float]] = {}
    for line in lines:
        if ratio := line["details"].get("ratio"):
            for name in (line["details"]["outage"], "all"):
                found.setdefault(name, []).append(ratio)
    # All of them last.
    return {name: found[name] for name in sorted(found, key=lambda name: name == "all")}


def times_table(lines: Lines) -> str:
    """Between first and last step, disturbed over undisturbed: medians with their range."""
    from benchmarks.harness import shown, spread, table

    rows = [[name, str(len(own)), shown(spread(own), 3)] for name, own in ratios(lines).items()]
    if not rows:
        return ""
    text = table(("server or network", "pairs", "first to last step, over undisturbed"), rows)
    waited = [line["details"]["waited"] for line in lines if "waited" in line["details"]]
    if waited:
        undisturbed, disturbed = (shown(spread([100 * w[side] for w in waited])) for side in (0, 1))
        text += f"\n\nWaiting for tracking: {disturbed} % of it; undisturbed {undisturbed} %."
    return text


def draw(lines: Lines, folder: Path) -> None:
    """The figures of what there are results for, as PNG and PDF."""
    if counts := phases(lines):
        _draw_phases(counts, folder / "phases.png")
    moments = {
        title: found
        for title, part in (
            ("a journal's writer", "journal-kills"), ("a forwarder", "forwarder-kills")
        )
        if (found := [m for line in lines if line["part"] == part
                      for m in line["details"].get("moments", [])])
    }  # fmt: skip
    if moments:
        _draw_moments(moments, folder / "moments.png")


def _draw_phases(counts: dict[str, int], path: Path) -> None:
    from matplotlib.figure import Figure

    from skinml.evaluation.drawing import COLUMN, GREY, drawing, save

    with drawing():
        figure = Figure(figsize=(COLUMN, 2.8), layout="constrained")
        axes = figure.subplots()
        bars = axes.barh(list(counts), list(counts.values()), color=GREY)
        axes.bar_label(bars, padding=2, fontsize="small")
        axes.invert_yaxis()
        axes.set(xlabel="SIGKILLs", title=f"{sum(counts.values())} kills of a training, by phase")
        save(figure, path)


def _draw_moments(moments: dict[str, list[float]], path: Path) -> None:
    from matplotlib.figure import Figure

    from skinml.evaluation.drawing import GREY, PAGE, drawing, save

    with drawing():
        figure = Figure(figsize=(PAGE, 2.4), layout="constrained")
        for axes, (title, own) in zip(
            figure.subplots(1, len(moments), squeeze=False)[0], moments.items(), strict=True
        ):
            axes.hist(own, bins=24, color=GREY)
            axes.set(title=f"{title}: {len(own)} kills", xlabel="seconds after its start",
                     ylabel="SIGKILLs")  # fmt: skip
        save(figure, path)
