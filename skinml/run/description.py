"""What a run is, before it trains: its parameters, tags, data, device, and what it repeats."""

import json
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from skinml.base.notices import without_notices
from skinml.base.provenance import git_state, library_versions
from skinml.config import AUTO, Config
from skinml.data.datasets import DATASETS, find_dataset
from skinml.data.isic2017 import PARTS
from skinml.data.prepare import open_data
from skinml.data.prepared import PreparedSet
from skinml.data.protocols import assign_parts, images_seen_in_training, split_of
from skinml.models.weights import weights_digest, weights_kind
from skinml.tracking.folder import Description
from skinml.training.backend import PLAIN, Device, Execution
from skinml.training.code_digest import training_digest


def split_name(config: Config) -> str:
    """The protocol and all that its split depends on.

    Such as "paper test=0.15 val=0.2 near=together seed=0".
    """
    if config.protocol == "challenge":
        return "challenge"
    # Before this was a parameter, identical images were kept together, under this name.
    kept = "" if config.near_duplicates == "identical" else f"near={config.near_duplicates} "
    return (
        f"paper test={config.test_fraction:g} val={config.validation_fraction:g} {kept}"
        f"seed={config.split_seed}"
    )


def display_name(config: Config) -> str:
    """What a run is called in MLflow's tables: its network, its batch size and its seed.

    Data and a protocol that are not the paper's come first, such as in
    "challenge-mobilenetv2-16-seed0": a narrow column cuts the end. What a run repeats is told by
    its tags (`identity`), never by this.
    """
    usual, data = Config(), find_dataset(config.data).name
    other = [data] * (data != usual.data) + [config.protocol] * (config.protocol != usual.protocol)
    return "-".join([*other, config.model, str(config.batch_size), f"seed{config.seed}"])


def is_official(config: Config, data: PreparedSet) -> bool:
    """Whether a score is the challenge's own: its parts, its data set, complete."""
    dataset = DATASETS.get(config.data)
    if config.protocol != "challenge" or dataset is None or not dataset.parts:
        return False
    counts = data.part_counts(data.official_parts)
    return all(
        tuple(counts[official.part].values()) == official.counts for official in dataset.parts
    )


def identity(config: Config, data_digest: str) -> dict[str, str]:
    """The tags that say what a run repeats: two runs that share all of them are repetitions."""
    return {
        "config_digest": config.digest(weights_digest(config.weights)),
        "data_digest": data_digest,
        "training_digest": training_digest(config.model),
    }


def describe_run(
    config: Config,
    data: PreparedSet,
    parts: np.ndarray,
    device: Device,
    execution: Execution = PLAIN,
) -> Description:
    """What is known of a run before it trains: its parameters, tags and data set."""
    commit, clean = git_state()
    digests = identity(config, data.digest)
    given = {name: str(value) for name, value in config.as_dict().items()}
    counts = data.part_counts(parts)
    part_of = dict(zip(data.image_ids, parts, strict=True))
    across = sum(len({part_of[image_id] for image_id in group}) > 1 for group in data.duplicates)
    params = (
        given
        | _effective(config, execution)
        | {
            **device_params(device),
            "git_commit": commit,
            "git_clean": clean,
            **digests,
            "weights_digest": weights_digest(config.weights) or config.weights,
            "duplicate_groups": str(len(data.duplicates)),
            "duplicate_groups_across_parts": str(across),
            "near_duplicate_groups": str(len(data.near_duplicates)),
            "test_images_seen_in_training": str(images_seen_in_training(data, parts)),
            **{f"version_{name}": version for name, version in library_versions().items()},
            **{f"images_{part}": str(sum(counts[part].values())) for part in PARTS},
            "classes": json.dumps(data.classes, ensure_ascii=False),
        }
    )
    tags = {
        "kind": "training",
        "model": config.model,
        "batch_size": str(config.batch_size),
        "seed": str(config.seed),
        "data": find_dataset(config.data).name,
        "protocol": config.protocol,
        "recipe": config.recipe,
        "split": split_name(config),
        "weights_kind": weights_kind(config.weights),
        **digests,
        "challenge_score": "official" if is_official(config, data) else "unofficial",
        "demo": str(config.data == "demo").lower(),
    }
    dataset = {
        "name": find_dataset(config.data).name,
        "digest": data.digest,
        "source": data.folder.name,
        "counts": {"protocol": split_name(config), **counts},
    }
    return Description(display_name(config), params, tags, dataset)


def _effective(config: Config, execution: Execution) -> dict[str, str]:
    """What each `auto` of a configuration stands for in this run."""
    resolved = config.resolved()
    return {
        f"effective_{option.name}": str(getattr(resolved, option.name))
        for option in fields(Config)
        if getattr(resolved, option.name) != getattr(config, option.name)
    } | {
        f"effective_{name}": str(value)
        for name, value in execution._asdict().items()
        if getattr(config, name) == AUTO
    }


def device_params(device: Device) -> dict[str, str]:
    return {
        "device_kind": device.kind,
        "device_name": device.name,
        "device_threads": str(device.threads),
        "keras_backend": device.backend,
    }


class Setup(NamedTuple):
    """What a training needs on this machine, and what of it decides the result to the last bit."""

    data: PreparedSet
    parts: np.ndarray
    device: Device
    execution: Execution
    surroundings: dict[str, str]


def set_up(config: Config, yes: bool) -> Setup:
    from skinml.training import backend

    data = open_data(config.data, config.data_dir, yes=yes)
    parts = assign_parts(data, *split_of(config))
    with without_notices():
        device = backend.configure(config.device, config.threads, config.seed)
    execution = backend.choose_execution(
        device,
        data.images.nbytes,
        config.precision,
        config.xla,
        config.steps_per_execution,
        config.resolved().images_on_device,
    )
    surroundings = {
        "data_digest": data.digest,
        "training_digest": training_digest(config.model),
        **device_params(device),
        "precision": execution.precision,
        "xla": str(execution.xla).lower(),
        **{f"version_{name}": version for name, version in library_versions().items()},
    }
    return Setup(data, parts, device, execution, surroundings)
