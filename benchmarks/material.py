"""The images and the configuration that the training benchmarks work on."""

import argparse
from pathlib import Path

import numpy as np

from skinml.config import Config
from skinml.data.prepare import open_data
from skinml.training.inputs import TrainingData


def add_source(parser: argparse.ArgumentParser) -> None:
    """Options that say which images, and from which weights."""
    parser.add_argument("--data", choices=("demo", "isic2017"), default="demo")
    parser.add_argument("--data_dir", default="auto", help="as of `python -m skinml.run`")
    parser.add_argument("--weights", default="none", help="as of `python -m skinml.run`")


def add_options(parser: argparse.ArgumentParser, train: int, validation: int) -> None:
    """Options that say which images, and how many of them."""
    add_source(parser)
    parser.add_argument("--train", type=int, default=train, help=f"images (default: {train})")
    parser.add_argument("--validation", type=int, default=validation, help="images")


def training_data(options: argparse.Namespace) -> TrainingData:
    """So many images of each part, of all classes; repeated where the set holds fewer."""
    data = open_data(options.data, options.data_dir)
    order = np.random.default_rng(0).permutation(len(data))
    rows = np.resize(order, options.train + options.validation)
    # No digest: nothing is taken from the cache, and nothing kept.
    return TrainingData(data.images, data.labels, rows[: options.train], rows[options.train :])


def weights_of(options: argparse.Namespace) -> str:
    """The options' initial weights, a file by its whole path: a run may begin in another folder."""
    if options.weights in ("none", "imagenet"):
        return str(options.weights)
    return str(Path(options.weights).expanduser().resolve())


def config(options: argparse.Namespace, **values: object) -> Config:
    """A resolved configuration on the options' images."""
    return Config(
        data=options.data,
        data_dir=options.data_dir,
        weights=weights_of(options),
        **values,  # type: ignore[arg-type]
    ).resolved()
