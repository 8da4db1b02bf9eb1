"""What a run that goes on must share with its beginning, and what differs."""

import sys
from dataclasses import fields

from skinml.base.errors import UserError
from skinml.config import AUTO, Config, config_from_params, value_used
from skinml.tracking.folder import Description
from skinml.training.checkpoint import Checkpoint
from skinml.training.code_digest import trained_by, training_digest, why_same

# The tag of a run that was gone on with where its last bits may differ: how.
RESUMED_WITH = "skinml.resumed_with"

# Another value of these makes another result; of other surroundings, other last bits at most.
_DECISIVE = (
    *("data_digest", "training_digest", "weights_digest"),
    *("keras_backend", "device_kind", "precision", "xla"),
)


def config_of(description: Description, checkpoint: Checkpoint | None) -> Config:
    """The configuration that a run was started with."""
    return config_from_params(checkpoint.config if checkpoint else description.params)


def refuse_other_values(name: str, config: Config, given: dict[str, object]) -> None:
    """Refuse what is given and is not what the run was started with, by name."""
    resolved = config.resolved()
    problems = [
        f"{option}={value}: run {name} was started with {getattr(config, option)}"
        for option, value in given.items()
        if value not in (getattr(config, option), getattr(resolved, option))
    ]
    if problems:
        raise UserError(f"{'; '.join(problems)}; leave it out to go on, or start a new run")


def refuse_another_meaning(name: str, config: Config, description: Description) -> None:
    """Refuse a run whose `auto` stood for other values when it was started than it does today.

    A recipe's values may change from one version to the next; the run has noted its own.
    """
    resolved, noted = config.resolved(), description.params
    problems = []
    for option in fields(config):
        today, then = getattr(resolved, option.name), value_used(noted, option.name)
        # What stays `auto` depends on the device, which is compared by itself.
        if getattr(config, option.name) != AUTO or today == AUTO or not option.metadata["decides"]:
            continue
        if then not in (None, AUTO, str(today)):
            problems.append(f"{option.name}={AUTO}: it was {then} then, and is {today} now")
    if problems:
        raise UserError(
            f"run {name} was started by another version: {'; '.join(problems)}; expected the same: "
            "go on with that version (its parameter git_commit), or start a new run"
        )


def started_with(description: Description, checkpoint: Checkpoint | None) -> dict[str, str]:
    """The surroundings that a run was started with, as far as they are known."""
    if checkpoint:
        return checkpoint.surroundings
    params = description.params
    return params | {
        name: params.get(f"effective_{name}", params[name]).lower() for name in ("precision", "xla")
    }


def with_todays_digest(then: dict[str, str], model: str) -> dict[str, str]:
    """Earlier surroundings, their training code named as today's where it counts as the same."""
    earlier = trained_by(then)
    reason = why_same(earlier, model)
    if reason:
        print(f"skinml: the training code {earlier} counts as today's: {reason}", file=sys.stderr)
    return then | {"training_digest": earlier if reason is None else training_digest(model)}


def differences(name: str, now: dict[str, str], then: dict[str, str]) -> str:
    """What differs from the surroundings a run was started with; a `UserError` if it decides."""
    differing = {key: value for key, value in now.items() if key in then and then[key] != value}
    decisive = [
        f"{key}={value}: run {name} was started with {then[key]}"
        for key, value in differing.items()
        if key in _DECISIVE
    ]
    if decisive:
        raise UserError(
            f"{'; '.join(decisive)}; expected the same (its parameters name it): go "
            "on there, or start a new run"
        )
    return ", ".join(f"{key} {value} instead of {then[key]}" for key, value in differing.items())
