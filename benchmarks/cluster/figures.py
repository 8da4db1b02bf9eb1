"""The sweep as a picture: a row a cell, its attempts as bars, what was killed as marks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Of the nodes, told apart by people who do not see colours as well, in print too.
COLOURS = {"node0": "#0072B2", "node1": "#E69F00", "node2": "#009E73"}

MARKS = {
    "training": ("x", "a training was killed"),
    "worker": ("v", "a Ray worker was killed"),
    "node": ("s", "a node was killed"),
    "cut": ("D", "a node's network was cut"),
}


def draw_timeline(path: Path, events: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw what the events of a campaign tell."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    attempts = [e for e in events if e["event"] == "attempt"]
    kills = [e for e in events if e["event"] == "kill"]
    start = min(e["time"] for e in events)
    last = {e["cell"]: max(x["end"] for x in attempts if x["cell"] == e["cell"]) for e in attempts}
    # In the order in which they ended: a staircase.
    rows = {cell: row for row, cell in enumerate(sorted(last, key=lambda c: last[c]))}

    figure, axes = plt.subplots(figsize=(11, 2.2 + 0.24 * len(rows)), layout="constrained")
    for attempt in attempts:
        begin, end = ((attempt[key] - start) / 60 for key in ("begin", "end"))
        axes.barh(rows[attempt["cell"]], end - begin, left=begin, height=0.62,
                  color=COLOURS[attempt["node"]], edgecolor="white", linewidth=0.6)  # fmt: skip
    for kill in kills:
        moment = (kill["time"] - start) / 60
        if kill["kind"] == "driver":
            axes.axvline(moment, color="black", linewidth=1.2, linestyle="--")
            continue
        marker, _ = MARKS[kill["kind"]]
        for hit in kill["hit"]:
            axes.plot(moment, rows[hit["cell"]], marker, color="black", markersize=4.5,
                      markerfacecolor="white" if marker != "x" else None, zorder=3)  # fmt: skip
        if not kill["hit"]:
            axes.plot(moment, -1, marker, color="0.4", markersize=4.5, markerfacecolor="white")
    for cell, row in rows.items():
        axes.plot((last[cell] - start) / 60, row, "o", color="black", markersize=3)
    axes.set_yticks(list(rows.values()), list(rows), fontsize=7)
    axes.set(xlabel="minutes", title=title, ylim=(len(rows) - 0.4, -1.6), xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    handles: list[Any] = [
        Patch(color=colour, label=name + (" (head)" if name == "node0" else ""))
        for name, colour in COLOURS.items()
    ]
    there = {kill["kind"] for kill in kills}
    handles += [
        Line2D([], [], marker=marker, color="black", linestyle="none", markersize=5, label=label,
               markerfacecolor="white")
        for kind, (marker, label) in MARKS.items() if kind in there
    ]  # fmt: skip
    if "driver" in there:
        handles.append(Line2D([], [], color="black", linestyle="--", label="the driver was killed"))
    handles.append(
        Line2D([], [], marker="o", color="black", linestyle="none", markersize=3, label="finished")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
