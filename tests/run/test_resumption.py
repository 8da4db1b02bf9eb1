"""What a run that goes on is refused for, by what it has noted of itself."""

from dataclasses import replace
from pathlib import Path

import pytest

from skinml.base.errors import UserError
from skinml.config import config_from_params
from skinml.run.resumption import refuse_another_meaning
from skinml.tracking.folder import Description, RunFolder

RESULTS = Path(__file__).parents[2] / "results"


def description(run: str) -> Description:
    return RunFolder.open(RESULTS / run).read_description()


@pytest.mark.parametrize(
    "run", ["real-table-ours/mobilenet-16-seed1", "nine-runs/runs/mobilenet-16-seed1-split0"]
)
def test_a_run_of_today_s_recipe_and_one_of_before_there_were_any_go_on(run: str) -> None:
    told = description(run)
    refuse_another_meaning(run, config_from_params(told.params), told)


def test_a_run_whose_recipe_has_other_values_today_does_not_go_on_by_them() -> None:
    """Its learning rate was 1e-4 then: it would end as a training that it says it is not."""
    told = description("recipe/official-first-choice-seed1")
    config = config_from_params(told.params)
    assert config.recipe == "ours" and config.resolved().learning_rate_finetune == 3e-5
    expected = (
        r"run it was started by another version: learning_rate_finetune=auto: it was 0.0001 then, "
        r"and is 3e-05 now; .*expected the same: go on with that version"
    )
    with pytest.raises(UserError, match=expected):
        refuse_another_meaning("it", config, told)


def test_what_was_no_parameter_then_was_as_every_run_did_it() -> None:
    """A run by `ours` before layers could be chosen fine-tuned all of them."""
    told = description("real-table-ours/mobilenet-16-seed1")
    params = {n: v for n, v in told.params.items() if not n.endswith("finetune_layers")}
    with pytest.raises(UserError, match="finetune_layers=auto: it was all then, and is last_stage"):
        refuse_another_meaning("it", config_from_params(params), replace(told, params=params))
