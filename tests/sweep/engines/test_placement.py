"""What a person says of where cells train: mistakes are one line, before anything is imported."""

import pytest
from pytest import CaptureFixture

from skinml.base.errors import UserError
from skinml.sweep.__main__ import ENGINES, _placement, parser
from skinml.sweep.engines.placement import Placement, minutes_of, sbatch_options


@pytest.mark.parametrize(
    ("text", "minutes"),
    # The forms of sbatch(1), --time.
    [("90", 90), ("90:30", 91), ("12:00:00", 720), ("0:00:01", 1), ("2-00", 2880),
     ("1-2:3", 1563), ("1-2:3:4", 1564)],
)  # fmt: skip
def test_a_time_limit_is_read_as_sbatch_reads_it(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "-5", "1:2:3:4", "two", "1-", "1.5", "UNLIMITED"])
def test_a_time_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected a time limit as sbatch takes it") as caught:
        Placement("slurm", slurm={"time": text})
    assert "\n" not in str(caught.value)


def test_options_of_sbatch_pass_through_as_they_are() -> None:
    given = ["partition=gpu --gres=gpu:1", "comment=a=b", ""]
    assert sbatch_options(given) == {"partition": "gpu", "gres": "gpu:1", "comment": "a=b"}


@pytest.mark.parametrize("word", ["partition", "=gpu", "output=x", "--open_mode=append", "array=1"])
def test_an_option_that_cannot_be_passed_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=r"^slurm="):
        sbatch_options([word])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--address=a:1"], "expected --engine ray, or no --address"),
        (["--slurm=partition=gpu"], "expected --engine slurm, or no --slurm"),
        (["--engine=ray", "--slurm=time=1"], "expected --engine slurm, or no --slurm"),
        (["--engine=ray", "--cpus=many"], "cpus='many': expected a number of at least 0, or auto"),
        (["--engine=ray", "--gpus=-1"], "gpus='-1': expected a number of at least 0, or auto"),
        (["--engine=ray", "--gpus=inf"], "gpus='inf'"),
        (["--engine=ray", "--gpus=nan"], "gpus='nan'"),
        (["--cpus=2"], "cpus='2' with engine=local: expected --engine ray, or no --cpus"),
        (["--engine=slurm", "--gpus=1"], "--slurm gres=gpu:1"),
        (["--engine=ray", "--executor=local"], "expected --engine slurm, or no --executor"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        _placement(parser().parse_args(arguments))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_engine_is_one_of_those_that_there_are(capsys: CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="engine"):
        parser().parse_args(["--engine=kubernetes"])
    assert ENGINES == ("local", "ray", "slurm")


def test_what_mlflow_run_passes_for_nothing_is_nothing() -> None:
    options = parser().parse_args(["--address", "", "--slurm", "", "--cpus", "auto"])
    assert _placement(options) == Placement()
