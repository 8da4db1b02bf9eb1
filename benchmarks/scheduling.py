"""What a sweep costs beside its cells: opened, between them, closed; and how that grows.

    python -m benchmarks.scheduling [--cells 10,30,…] [--real 9] [--json] [--out FOLDER]

First a sweep of real cells, one at a time: its time over the sum of theirs (target: at most 1.05).
Then cells that do nothing but what a finished run leaves: a row in the store, its tags, a folder;
by a sweep on this machine one after the other, and by one on a Ray node of one CPU, in turn. What a
sweep takes beyond the time of its cells, from fork to end, is its scheduling. Target: linear, that
is the time beside a cell in the largest sweep at most 1.5 times that in the smallest of 100 cells.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.cluster.nodes import Cluster, own_environment
from benchmarks.harness import parser, report, surroundings, table, verdict
from skinml.base.progress import progress_bar

SIZES = "10,30,100,300,1000"

RATIO, GROWTH = 1.05, 1.5

# How many cells the bare loop runs in a turn, before and after the sweeps.
BARE = 100

# A cell: python STAND_IN STORE CONFIG DATA CODE FOLDER. It imports little, no site-packages.
STAND_IN = """
import os, sqlite3, sys, time
began = time.time()
try:
    # When it was forked, in ticks of 10 ms since the boot, cut off: half a tick on average.
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19]) + 0.5
    began -= time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
except OSError:
    pass
store, config, data, code, folder = sys.argv[1:6]
run_id = os.urandom(16).hex()
tags = {"kind": "training", "config_digest": config, "data_digest": data, "training_digest": code,
        "mlflow.parentRunId": os.environ["SKINML_PARENT_RUN_ID"], "mlflow.runName": folder,
        "model": "mobilenet", "batch_size": "16", "demo": "true", "began": str(began),
        "ended": str(time.time())}
folder += "/run"
os.mkdir(folder)
for name, text in (("metrics.json", '{"test_accuracy": 0.75, "test_auc_macro": 0.875}'),
                   ("mlflow_run_id", run_id), ("FINISHED", "")):
    with open(f"{folder}/{name}", "w") as file:
        file.write(text)
with sqlite3.connect(store, timeout=60) as db:
    db.execute("INSERT INTO runs (run_uuid, name, source_type, user_id, status, start_time, "
               "end_time, lifecycle_stage, artifact_uri, experiment_id) VALUES "
               "(?, 'cell', 'LOCAL', 'nobody', 'FINISHED', ?, ?, 'active', ?, ?)",
               (run_id, int(began * 1000), int(time.time() * 1000), folder,
                os.environ["MLFLOW_EXPERIMENT_ID"]))
    db.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
                   [(key, value, run_id) for key, value in tags.items()])
    db.executemany("INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
                   "VALUES (?, ?, 0, 0, 0, ?)",
                   [("test_accuracy", 0.75, run_id), ("test_auc_macro", 0.875, run_id)])
"""

# A real cell below a clock: python -S -c TIMER FILE COMMAND…
TIMER = """
import os, sys, time
began = time.time()
code = os.spawnv(os.P_WAIT, sys.argv[2], sys.argv[2:])
with open(sys.argv[1], "a") as file:
    file.write(f"{began} {time.time()}\\n")
sys.exit(code if code >= 0 else 128 - code)
"""


# In a process of its own: one sweep, and when what happened


def one_sweep(given: dict[str, Any]) -> dict[str, Any]:
    """Run a sweep in this process; returns when (seconds since 1970) it was at what."""
    from skinml.config import Config
    from skinml.data.prepare import open_data
    from skinml.sweep.cells import make_cells
    from skinml.sweep.driver import sweep
    from skinml.sweep.engines.placement import Placement
    from skinml.sweep.orders import cell_command

    began = time.time()
    data = open_data("demo", given["data_dir"])
    shared: dict[str, Any] = {"data": "demo", "data_dir": given["data_dir"], "weights": "none"}
    shared |= {"device": "cpu", "threads": 1, "epochs_finetune": given["epochs"]}
    shared |= {"output_dir": str(Path("runs").absolute())}
    models = given["models"].split(",")
    configs = [
        Config(model=models[n % len(models)], batch_size=16, seed=n, **shared)
        for n in range(given["cells"])
    ]
    cells = make_cells(configs, data)
    identities = {cell.name: cell.identity for cell in cells}
    store = str(Path("mlflow.db").absolute())

    def stand_in(config: Config) -> list[str]:
        folder = Path(config.output_dir).absolute()
        own = identities[folder.name]
        digests = [own[f"{what}_digest"] for what in ("config", "data", "training")]
        known = [store, *digests, str(folder)]
        return [sys.executable, "-S", "-E", given["stand_in"], *known]

    def timed(config: Config) -> list[str]:
        times = str(Path("times").absolute())
        return [sys.executable, "-S", "-c", TIMER, times, *cell_command(config)]

    placement = Placement(given["engine"], given["address"])
    command = timed if given["real"] else stand_in
    code = sweep(cells, 1 if given["engine"] == "local" else None, command=command,
                 placement=placement, data_folder=data.folder)  # fmt: skip
    ended = time.time()
    if code:
        raise RuntimeError(f"the sweep ended with {code}")
    if given["real"]:
        lines = Path("times").read_text().splitlines()
        spans = [tuple(map(float, line.split())) for line in lines]
    else:
        with closing(sqlite3.connect(store)) as db:
            found = db.execute(
                "SELECT CAST(a.value AS REAL), CAST(b.value AS REAL) FROM tags a JOIN tags b "
                "USING (run_uuid) WHERE a.key = 'began' AND b.key = 'ended'"
            ).fetchall()
        spans = [(float(start), float(end)) for start, end in found]
    assert len(spans) == given["cells"], (len(spans), given)
    return {
        "began": began,
        "first": min(start for start, _ in spans),
        "last": max(end for _, end in spans),
        "ended": ended,
        "cells": [end - start for start, end in spans],
    }


# In the process that measures


class Bench:
    """A folder with what all sweeps share: the data, an empty store, the stand-in."""

    def __init__(self, folder: Path) -> None:
        from skinml.data import demo

        self.folder = folder
        self._count = 0
        demo.generate(folder / "data", counts={"train": 60, "validation": 18, "test": 24})
        (folder / "stand_in.py").write_text(STAND_IN)
        self.variables = {**own_environment(), "SKINML_CACHE_DIR": str(folder / "cache")}
        # Making a store takes seconds, once in its life.
        made = "import mlflow; mlflow.MlflowClient().create_experiment('skinml-demo')"
        self._python("-c", made, cwd=folder, uri=f"sqlite:///{folder}/mlflow.db")

    def _python(self, *words: str, cwd: Path, uri: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=cwd, env={**self.variables, "MLFLOW_TRACKING_URI": uri},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return done.stdout

    def _fresh(self) -> Path:
        self._count += 1
        folder = self.folder / f"sweep-{self._count}"
        folder.mkdir()
        shutil.copy(self.folder / "mlflow.db", folder / "mlflow.db")
        return folder

    def sweep(self, cells: int, engine: str = "local", address: str = "", real: bool = False,
              models: str = "mobilenet", epochs: int = 2) -> dict[str, Any]:  # fmt: skip
        """One sweep in a fresh store: seconds of its parts."""
        folder = self._fresh()
        given = {"cells": cells, "engine": engine, "address": address, "real": real,
                 "models": models, "epochs": epochs, "data_dir": str(self.folder / "data"),
                 "stand_in": str(self.folder / "stand_in.py")}  # fmt: skip
        started = time.time()
        out = self._python("-m", "benchmarks.scheduling", "--child", json.dumps(given),
                           cwd=folder, uri=f"sqlite:///{folder}/mlflow.db")  # fmt: skip
        ended = time.time()
        at = json.loads(out.splitlines()[-1])
        shutil.rmtree(folder)
        return {
            "cells": cells,
            "seconds": ended - started,
            "opening": at["first"] - started,
            "between": at["last"] - at["first"],
            "closing": ended - at["last"],
            "of_cells": sum(at["cells"]),
        }

    def bare(self, cells: int) -> float:
        """Seconds of one stand-in, started by a loop that does nothing else."""
        folder = self._fresh()
        variables = {
            **self.variables,
            "SKINML_PARENT_RUN_ID": "f" * 32,
            "MLFLOW_EXPERIMENT_ID": "1",
        }
        words = [sys.executable, "-S", "-E", str(self.folder / "stand_in.py")]
        words += [str(folder / "mlflow.db"), "config", "data", "code"]
        places = [folder / f"cell-{number}" for number in range(cells)]
        for place in places:
            place.mkdir()
        started = time.perf_counter()
        for place in places:
            subprocess.run([*words, str(place)], env=variables, check=True)
        seconds = time.perf_counter() - started
        shutil.rmtree(folder)
        return seconds / cells


@contextmanager
def one_node(folder: Path, cache: str) -> Iterator[str]:
    """A Ray node of one CPU on loopback; yields its address, with its token in the environment."""
    cluster = Cluster(folder, apart=False)
    cluster.variables["SKINML_CACHE_DIR"] = cache
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED",
             "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")  # fmt: skip
    before = {name: os.environ.get(name) for name in names}
    try:
        cluster.head.start()
        os.environ.update({name: cluster.variables[name] for name in names})
        yield cluster.address
    finally:
        cluster.stop()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def measure(bench: Bench, sizes: Sequence[int], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Cells that do nothing: for each size a row of both engines, and of the bare loop."""
    rows = []
    engines = ("local", "ray")
    folder = bench.folder / "c"
    folder.mkdir()
    with one_node(folder, bench.variables["SKINML_CACHE_DIR"]) as address:
        names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED",
                 "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")  # fmt: skip
        bench.variables |= {name: os.environ[name] for name in names}
        for engine in engines:
            bench.sweep(2, engine, address if engine == "ray" else "")  # Files come from the disk.
        with progress_bar("sweeps", len(sizes)) as advance:
            for turn, size in enumerate(sizes):
                bare = [bench.bare(min(size, BARE))]
                row: dict[str, Any] = {"cells": size}
                for engine in engines if turn % 2 == 0 else engines[::-1]:
                    row[engine] = bench.sweep(size, engine, address if engine == "ray" else "")
                    bare.append(bench.bare(min(size, BARE)))
                row["bare_ms"] = sorted(1000 * one for one in bare)
                for engine in engines:
                    own = row[engine]
                    gaps = own["between"] - own["of_cells"]
                    own["ms_between"] = 1000 * gaps / max(1, size - 1)
                    own["overhead"] = own["seconds"] - own["of_cells"]
                rows.append(row)
                told = [f"{engine} {row[engine]['ms_between']:.0f} ms a cell" for engine in engines]
                say(f"{size} cells: {', '.join(told)}")
                advance(1, f"{size} cells")
    return rows


def growth(rows: Sequence[dict[str, Any]], engine: str) -> float:
    """How the time of a cell in the largest sweep stands to that in the smallest of 100 or more."""
    able = [row for row in rows if row["cells"] >= 100] or list(rows)
    return float(able[-1][engine]["ms_between"] / able[0][engine]["ms_between"])


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds beyond the bare loop over the number of cells, with the line of what is linear."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
    sizes = [row["cells"] for row in rows]
    for engine, colour, name in (("local", "#0072B2", "this machine"), ("ray", "#E69F00", "Ray")):
        seconds = [row[engine]["overhead"] for row in rows]
        left.loglog(sizes, seconds, "o-", color=colour, label=name)
        # From the largest: a constant part lifts the small ones above it.
        line = [seconds[-1] * size / sizes[-1] for size in sizes]
        left.loglog(sizes, line, ":", color=colour, label=f"linear ({name})")
        right.semilogx(sizes, [row[engine]["ms_between"] for row in rows], "o-", color=colour,
                       label=name)  # fmt: skip
    left.set(xlabel="cells", ylabel="seconds beyond the cells' own", title="A whole sweep")
    right.set(xlabel="cells", ylabel="milliseconds beyond the cell's own", ylim=(0, None))
    right.set_title("Between two cells")
    left.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def text_of(result: dict[str, Any]) -> str:
    parts = []
    if real := result.get("real"):
        ratio = real["seconds"] / real["of_cells"]
        between = real["between"] - real["of_cells"]
        parts.append(
            table(
                ["a sweep of real cells, one at a time", "", f"target ≤ {RATIO}", ""],
                [
                    ["cells", str(real["cells"]), "", ""],
                    ["sum of their times, s", f"{real['of_cells']:.1f}", "", ""],
                    ["the sweep's time, s", f"{real['seconds']:.1f}", "", ""],
                    ["opened, s", f"{real['opening']:.1f}", "", ""],
                    ["between two cells, s", f"{between / max(1, real['cells'] - 1):.2f}", "", ""],
                    ["closed, s", f"{real['closing']:.1f}", "", ""],
                    ["sweep over its cells", f"{ratio:.3f}", "", verdict(ratio <= RATIO)],
                ],
            )
        )
    if rows := result.get("nothing"):
        lines = []
        for row in rows:
            low, bare, high = row["bare_ms"]
            line = [f"{row['cells']:,}", f"{bare:.0f} ({low:.0f} to {high:.0f})"]
            for engine in ("local", "ray"):
                own = row[engine]
                line += [f"{own['ms_between']:.0f}", f"{own['opening']:.1f}",
                         f"{own['closing']:.1f}", f"{own['seconds']:.1f}"]  # fmt: skip
            lines.append(line)
        heading = ["cells that do nothing", "a cell by itself, ms"]
        for name in ("this machine", "Ray"):
            heading += [f"{name}: ms beyond it", "opened, s", "closed, s", "in all, s"]
        parts.append(table(heading, lines))
        ends = [
            [name, f"{growth(rows, engine):.2f}", verdict(growth(rows, engine) <= GROWTH)]
            for engine, name in (("local", "this machine"), ("ray", "Ray"))
        ]
        parts.append(
            table([f"a cell of {rows[-1]['cells']:,} beside one of 100", "", f"≤ {GROWTH}"], ends)
        )
    return "\n\n".join(parts)


def main() -> None:
    made = parser(__doc__, repeats=1)
    made.add_argument("--cells", default=SIZES, help="sizes, smallest first (default: %(default)s)")
    made.add_argument("--real", type=int, default=9, help="real cells (default: %(default)s)")
    made.add_argument("--models", default="mobilenetv3small", help="of the real cells")
    made.add_argument("--epochs", type=int, default=6, help="of the real cells")
    made.add_argument("--child", help="for this benchmark's own processes")
    options = made.parse_args()
    if options.child:
        print(json.dumps(one_sweep(json.loads(options.child))))
        return
    result: dict[str, Any] = surroundings()
    sizes = [int(size) for size in options.cells.split(",") if size]

    def say(text: str) -> None:
        print(f"scheduling: {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="skinml-") as name:
        bench = Bench(Path(name))
        if options.real:
            say(f"{options.real} real cells")
            result["real"] = bench.sweep(options.real, real=True, models=options.models,
                                         epochs=options.epochs)  # fmt: skip
        if sizes:
            result["nothing"] = measure(bench, sizes, say)
            result["growth"] = {e: growth(result["nothing"], e) for e in ("local", "ray")}
    rows = result.get("nothing")
    report(options, result, text_of(result), (lambda path: draw(rows, path)) if rows else None)


if __name__ == "__main__":
    main()
