"""Each choice of how steps are executed beside the default: precision, XLA, steps per execution.

    python -m benchmarks.execution [--model mobilenetv2] [--batch_size 16] [--device auto]

One network, the product's own compiled steps on batches that are there already; one alternative at
a time, in a process of its own each, in turn with the default. What helps is what
`skinml.training.backend.EXECUTIONS` should say of a device; docs/speed.md shows the table.
"""

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness import in_turn, parser, ratio, report, shown, spread, surroundings, table

DEFAULT = "default"


def alternatives(kind: str) -> dict[str, dict[str, str]]:
    """What is measured on a kind of device: a name, and the options that differ from its default.

    On a GPU the plain way is one, on a CPU what a GPU does.
    """
    if kind == "gpu":
        return {
            "float32": {"precision": "float32"},
            "without XLA": {"xla": "false"},
            "1 step per execution": {"steps_per_execution": "1"},
            "images on the host": {"images_on_device": "false"},
            "none of it": {
                "precision": "float32",
                "xla": "false",
                "steps_per_execution": "1",
                "images_on_device": "false",
            },
        }
    return {
        "mixed bfloat16": {"precision": "mixed_bfloat16"},
        "mixed float16": {"precision": "mixed_float16"},
        "XLA": {"xla": "true"},
        "8 steps per execution": {"steps_per_execution": "8"},
        "images on the device": {"images_on_device": "true"},
    }


def rate(options: argparse.Namespace, chosen: dict[str, str]) -> float:
    """Images a second of one way of execution, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.execution", "--only", json.dumps(chosen)]
    for name in ("model", "batch_size", "device", "steps"):
        command += [f"--{name}", str(getattr(options, name))]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(output.splitlines()[-1])


def measure_here(options: argparse.Namespace) -> float:
    """Images a second of the steps, the first executions, which compile, left out."""
    from skinml.config import Config
    from skinml.models.classifier import build_classifier, unfreeze
    from skinml.training import backend
    from skinml.training.loop import _optimizer
    from skinml.training.steps import Batch, Steps, Trainee, grouped

    device = backend.configure(options.device)
    random = np.random.default_rng(0)
    size = options.batch_size
    images = random.integers(0, 256, (8 * size, 224, 224, 3), dtype=np.uint8)
    chosen = backend.choose_execution(device, images.nbytes, **json.loads(options.only))
    config = Config(model=options.model, weights="none", batch_size=size).resolved()
    classifier = build_classifier(config, 3)
    unfreeze(classifier, config.batch_norm)
    model = Trainee(classifier.model.inputs, classifier.model.outputs)
    model.compile(
        optimizer=_optimizer(config, float(config.learning_rate_finetune), 1000),
        loss="sparse_categorical_crossentropy",
        jit_compile=False,
    )
    steps = Steps(model, chosen, images if chosen.images_on_device else None)
    labels, weights = random.integers(0, 3, size), np.ones(size, np.float32)
    rows = [np.arange(start, start + size) for start in range(0, len(images), size)]
    views = [np.stack([own, own % 8], axis=1).astype(np.int32) for own in rows]
    inputs = views if chosen.images_on_device else [images[own] for own in rows]

    def epoch(count: int) -> float:
        batches = (Batch(inputs[n % len(inputs)], labels, weights) for n in range(count))
        started = time.perf_counter()
        for _ in steps.epoch(grouped(batches, chosen.steps_per_execution)):
            pass
        return time.perf_counter() - started

    epoch(chosen.steps_per_execution)
    return options.steps * size / epoch(options.steps)


def main() -> None:
    options_parser = parser(__doc__, repeats=3)
    options_parser.add_argument("--model", default="mobilenetv2")
    options_parser.add_argument("--batch_size", type=int, default=16)
    options_parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    options_parser.add_argument("--steps", type=int, default=16, help="multiple of 8 (default: 16)")
    options_parser.add_argument("--only", help=argparse.SUPPRESS)
    options = options_parser.parse_args()
    if options.only:
        print(measure_here(options))
        return
    around = surroundings()
    device = device_of(options)
    sides = {DEFAULT: {}, **alternatives(device["kind"])}
    if device["backend"] == "jax":
        sides = {name: chosen for name, chosen in sides.items() if "xla" not in chosen}
    values = in_turn(
        "execution",
        {name: partial(rate, options, chosen) for name, chosen in sides.items()},
        options.repeats,
    )
    found = {
        name: {"images_per_second": spread(own), "ratio": ratio(own, values[DEFAULT])}
        for name, own in values.items()
    }
    rows = [
        [name, shown(own["images_per_second"], 1), shown(own["ratio"])]
        for name, own in found.items()
    ]
    result: dict[str, Any] = {
        **around,
        "device": device,
        "model": options.model,
        "batch_size": options.batch_size,
        "found": found,
    }
    heading = [f"{options.model} on {device['name']}", "images a second", "over the default"]
    report(options, result, table(heading, rows))


def device_of(options: argparse.Namespace) -> dict[str, Any]:
    """The device that is measured, asked of another process: this one holds no memory of it."""
    code = (
        "import json; from skinml import backend; "
        f"print(json.dumps(backend.configure({options.device!r})._asdict()))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answer


if __name__ == "__main__":
    main()
