"""The champion: the registered version of a model that people load, and its serving model's."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from skinml.base.errors import UserError, first_line
from skinml.store.access import check_store

CHAMPION = "champion"

# What the name of a serving model ends with.
SERVING = "-serving"

# What champions are compared by, and what must be equal for a comparison to mean anything.
CHAMPION_METRIC = "val_auc_macro"
COMPARABLE = ("data_digest", "split")

# Tags of a registered model: COMPARABLE of its champion, which outlive that version, and the newest
# version that was there when a person promoted one: those up to it were passed over.
_CHAMPIONS = "skinml.champion."
_PASSED_OVER = "skinml.passed_over"


class _Pair(NamedTuple):
    """The versions that one run has of a model and of its serving model."""

    model: Any
    serving: Any

    @property
    def score(self) -> float:
        try:
            score = float(self.model.tags.get(CHAMPION_METRIC, "-inf"))
        except ValueError:  # A tag of somebody else's.
            return -math.inf
        return -math.inf if math.isnan(score) else score

    @property
    def group(self) -> dict[str, str]:
        """What it must share with another one to be compared with it."""
        return {key: self.model.tags.get(key, "?") for key in COMPARABLE}


class _Registered:
    """What the registry holds under a name now."""

    def __init__(self, name: str) -> None:
        from mlflow import MlflowClient

        client = MlflowClient()
        found: list[Any] = list(client.search_model_versions(f"name = '{name}'"))
        self.versions = sorted(found, key=lambda version: int(version.version))
        # It may know nothing of a name without versions.
        model = client.get_registered_model(name) if found else None
        self.tags: dict[str, str] = model.tags if model else {}
        holder = str(model.aliases.get(CHAMPION)) if model else ""
        self.champion = next((v for v in found if str(v.version) == holder), None)

    def by_run(self) -> dict[str, Any]:
        """The oldest version of each run."""
        found: dict[str, Any] = {}
        for version in self.versions:
            found.setdefault(version.run_id, version)
        return found


class _Pairs:
    """A model and its serving model in the registry, run by run, as they are now."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._model, self._serving = _Registered(name), _Registered(name + SERVING)
        servings = self._serving.by_run()
        # The oldest first. A version alone is none that could be champion.
        self.by_run = {
            run_id: _Pair(version, servings[run_id])
            for run_id, version in self._model.by_run().items()
            if run_id and run_id in servings
        }

    @property
    def champion(self) -> _Pair | None:
        """The pair of the run that an alias names; None where a version of it is deleted."""
        for holder in (self._model.champion, self._serving.champion):
            if holder and holder.run_id in self.by_run:
                return self.by_run[holder.run_id]
        return None

    @property
    def is_settled(self) -> bool:
        """Whether both aliases are there, and of one run."""
        champion = self.champion
        return champion is not None and not self._lacking(champion)

    def best(self) -> _Pair | None:
        """The best of those comparable with the last champion, else with the newest one."""
        pairs = list(self.by_run.values())
        if not pairs:
            return None
        last = {key: self._model.tags.get(_CHAMPIONS + key) for key in COMPARABLE}
        comparable = [pair for pair in pairs if pair.group == last]
        comparable = comparable or [pair for pair in pairs if pair.group == pairs[-1].group]
        return max(comparable, key=lambda pair: pair.score)

    def was_passed_over(self, pair: _Pair) -> bool:
        """Whether it was there already when a person promoted another one."""
        newest = str(self._model.tags.get(_PASSED_OVER, "0"))
        return newest.isdecimal() and int(pair.model.version) <= int(newest)

    def crown(self, pair: _Pair, promoted: bool = False) -> bool:
        """Give a pair both aliases; whether that changed anything."""
        from mlflow import MlflowClient

        client = MlflowClient()
        tags = {_CHAMPIONS + key: value for key, value in pair.group.items()}
        if promoted:
            tags[_PASSED_OVER] = str(self._model.versions[-1].version)
        for key, value in tags.items():
            if self._model.tags.get(key) != value:
                client.set_registered_model_tag(self._name, key, value)
        lacking = self._lacking(pair)
        for version in lacking:
            client.set_registered_model_alias(version.name, CHAMPION, version.version)
        return bool(lacking)

    def _lacking(self, pair: _Pair) -> list[Any]:
        """The versions of a pair that lack the alias; another version of that run may have it."""
        return [
            version
            for registered, version in zip((self._model, self._serving), pair, strict=True)
            if registered.champion is None or registered.champion.run_id != version.run_id
        ]


def _crown(name: str, choose: Callable[[_Pairs], _Pair | None], promoted: bool = False) -> _Pairs:
    """Give both aliases of a model to the pair that `choose` says, until they stay there.

    MLflow sets one alias at a time: of two runs that end together each may set one.
    """
    while True:
        pairs = _Pairs(name)
        pair = choose(pairs)
        if pair is None or not pairs.crown(pair, promoted):
            return pairs


def settle_champion(name: str, run_id: str) -> None:
    """See to it that the best comparable run has both aliases `champion`, after one was registered.

    Best by validation macro AUC among the runs of the same data digest and split of which `name`
    and its serving model both have a version. Where a version of the champion was deleted that is
    the best of those that remain. A champion of another digest or split is never replaced
    silently: a line on stderr says how to do it.
    """

    def choose(pairs: _Pairs) -> _Pair | None:
        champion, new = pairs.champion, pairs.by_run.get(run_id)
        if champion is None:
            return pairs.best()
        if new is None or new.group != champion.group or pairs.was_passed_over(new):
            return champion
        return new if new.score > champion.score else champion

    pairs = _crown(name, choose)
    champion, new = pairs.champion, pairs.by_run.get(run_id)
    if champion and new and new.group != champion.group:
        changes = ", ".join(
            f"{key} {there} there, {new.group[key]} here"
            for key, there in champion.group.items()
            if new.group[key] != there
        )
        number = new.model.version
        print(
            f"skinml: {name}@{CHAMPION} stays version {champion.model.version}: version {number} "
            f"is not comparable with it ({changes}); to hand over all the same: python -m "
            f"skinml.registry promote {name} {number}",
            file=sys.stderr,
        )


@contextmanager
def registry_is_needed(what: str) -> Iterator[None]:
    """A registry that has not what is asked for, or does not answer, is a `UserError`."""
    from mlflow import MlflowException, get_registry_uri

    try:
        check_store(get_registry_uri())
        yield
    except MlflowException as error:
        raise UserError(
            f"{what}: {first_line(error)}; `python -m skinml.registry list` shows what "
            f"there is at {get_registry_uri()} (MLFLOW_TRACKING_URI)"
        ) from None


def promote(name: str, version: str) -> tuple[Any, Any]:
    """Make a version the champion, and with it that of the same run under the other name."""
    from mlflow import MlflowClient

    given = MlflowClient().get_model_version(name, version)
    model = name.removesuffix(SERVING)

    def choose(pairs: _Pairs) -> _Pair:
        if given.run_id not in pairs.by_run:
            other = model if name != model else model + SERVING
            raise UserError(
                f"{name} {version}: its run has no version of {other}, and both champions are of "
                "one run; expected a version whose run has both: `python -m skinml.registry list`"
            )
        return pairs.by_run[given.run_id]

    return choose(_crown(model, choose, promoted=True))


def list_versions() -> str:
    """All registered versions of skinml's models with their headline figures, as text."""
    from mlflow import MlflowClient

    client = MlflowClient()
    lines = []
    models = client.search_registered_models("name LIKE 'skinml-%'")
    names = {model.name for model in models}
    for model in models:
        champion = model.aliases.get(CHAMPION)
        for version in client.search_model_versions(f"name = '{model.name}'"):
            mark = " champion" if str(version.version) == str(champion) else ""
            lines.append(
                f"{model.name} {version.version}{mark}: {CHAMPION_METRIC} "
                f"{version.tags.get(CHAMPION_METRIC, '?')}, test_accuracy "
                f"{version.tags.get('test_accuracy', '?')}, split {version.tags.get('split', '?')},"
                f" data {version.tags.get('data_digest', '?')}"
            )
        if model.name + SERVING in names and not (pairs := _Pairs(model.name)).is_settled:
            pair = pairs.champion or pairs.best()
            number = pair.model.version if pair else "VERSION"
            lines.append(
                f"{model.name}: no run is champion here and in {model.name}{SERVING}; to make one: "
                f"python -m skinml.registry promote {model.name} {number}"
            )
    return "\n".join(lines) or "no model of skinml is registered here"
