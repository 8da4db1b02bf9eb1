"""What a report says of the paper's claims: no more than the tests beneath it show."""

import re
from pathlib import Path

import pytest

from skinml.compare.analysis import analyse
from skinml.compare.caveats import caveats
from skinml.compare.claims import claims
from skinml.compare.comparison import Comparison
from skinml.compare.reading import runs_in_folder
from skinml.compare.selection import select
from tests.compare.conftest import made_up, write_grid, write_run


def compared(folder: Path) -> Comparison:
    return analyse(select(runs_in_folder(folder)), 300)


def test_nothing_is_shown_of_equal_networks(nine: Path) -> None:
    smaller, best = claims(compared(nine))
    assert "by accuracy not shown (" in smaller and "by AUC (weighted) not shown (" in smaller
    assert "(of mobilenet, mobilenetv2, nasnetmobile)" in smaller
    # One seed of each has a p-value over images and runs here: what repeats are the networks.
    assert smaller.endswith(" The repetitions are 3 networks, 1 seed each.")
    assert "not shown by accuracy; not shown by AUC (weighted)." in best
    assert "that takes 3 pairs of runs" in best
    assert best.endswith("It began with random weights, the paper's with ImageNet's.")


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Batch size 16 is better than 64, nasnetmobile-16 better than all."""
    skills = {("nasnetmobile", 16): 6.0, ("mobilenet", 16): 2.0}
    folder = tmp_path_factory.mktemp("better")
    return write_grid(
        folder, lambda model, size: skills.get((model, size), 0.8), seeds=(0, 1, 2),
        models=("mobilenet", "nasnetmobile"), sizes=(16, 64),
    )  # fmt: skip


def test_what_is_shown_is_said(better: Path) -> None:
    smaller, best = claims(compared(better))
    assert "by accuracy shown (+0." in smaller and "by AUC (weighted) shown (+0." in smaller
    assert "shown by accuracy; shown by AUC (weighted)." in best
    assert "nothing follows" not in smaller + best and "repetitions" not in smaller


def test_one_network_that_makes_all_of_a_difference_is_seen(tmp_path: Path) -> None:
    skills = {("mobilenet", 64): 0.4}
    write_grid(
        tmp_path, lambda model, size: skills.get((model, size), 4.0),
        models=("mobilenet", "nasnetmobile"), sizes=(16, 64),
    )  # fmt: skip
    found = compared(tmp_path)
    smaller, _ = claims(found)
    values = {str(row.cell): row.values["accuracy"].value for row in found.rows}
    of_each = [
        f"{model} {values[f'{model}-16'] - values[f'{model}-64']:+.3f}".replace("-", "−")
        for model in ("mobilenet", "nasnetmobile")
    ]
    assert f"Of each: by accuracy {', '.join(of_each)}; by AUC" in smaller
    assert abs(values["nasnetmobile-16"] - values["nasnetmobile-64"]) < 0.1


def test_only_the_cells_of_a_claim_are_asked_whether_they_were_trained_alike(
    tmp_path: Path,
) -> None:
    """One network's own settings are on both sides of a pooled difference, or not in it at all."""
    seeds = [(model, size, seed) for model in ("mobilenet", "mobilenetv2") for size in (16, 64)
             for seed in range(3)]  # fmt: skip
    for model, size, seed in [*seeds, ("nasnetmobile", 16, 0)]:
        own = {"epochs_finetune": 30 if model == "mobilenet" else 4}
        write_run(tmp_path, made_up(4.0 if size == 16 else 0.8, [len(model), size, seed]),
                  model=model, batch_size=size, seed=seed, test_fraction=0.2, **own)  # fmt: skip
    smaller, best = claims(compared(tmp_path))
    assert "by accuracy shown (+0." in smaller and "nothing follows" not in smaller
    assert "they were not trained alike (epochs_finetune)" in best
    assert set(compared(tmp_path).selection.differences) == {"epochs_finetune"}


def test_settings_of_the_two_sides_of_a_claim_that_differ_are_told(tmp_path: Path) -> None:
    for size, seed in [(size, seed) for size in (16, 64) for seed in range(3)]:
        write_run(tmp_path, made_up(4.0 if size == 16 else 0.8, [size, seed]), batch_size=size,
                  seed=seed, test_fraction=0.2, model="mobilenet",
                  epochs_finetune=size)  # fmt: skip
    smaller, _ = claims(compared(tmp_path))
    assert "by accuracy shown of these networks alone" in smaller
    assert smaller.endswith("nothing follows: they were not trained alike (epochs_finetune).")


def test_the_other_way_round(tmp_path: Path) -> None:
    write_grid(
        tmp_path, lambda model, size: 4.0 if size == 64 else 0.8,
        models=("mobilenet", "nasnetmobile"), sizes=(16, 64),
    )  # fmt: skip
    smaller, best = claims(compared(tmp_path))
    assert "by accuracy the other way round in these networks (−0." in smaller
    assert (
        "by accuracy these trained networks say otherwise, mobilenet-64, nasnetmobile-64 are"
        in (best)
    )


@pytest.mark.parametrize(
    ("cells", "smaller", "best"),
    [
        (
            [("mobilenet", 16), ("mobilenetv2", 64)],
            "no network was trained with both",
            "not trained",
        ),
        ([("mobilenet", 16), ("mobilenet", 64)], "by accuracy", "not trained here"),
    ],
)
def test_cells_that_are_not_there(
    tmp_path: Path, cells: list[tuple[str, int]], smaller: str, best: str
) -> None:
    for number, (model, size) in enumerate(cells):
        write_run(tmp_path, made_up(1.0, [number]), model=model, batch_size=size, test_fraction=0.2)
    for told, expected in zip(claims(compared(tmp_path)), (smaller, best), strict=True):
        assert expected in told


def test_other_protocols_are_not_the_papers(tmp_path: Path) -> None:
    for size in (16, 64):
        write_run(tmp_path, made_up(1.0, [size]), model="mobilenet", batch_size=size,
                  protocol="challenge")  # fmt: skip
    assert claims(compared(tmp_path)) == []


def test_the_difference_of_each_network_is_of_the_runs_that_the_pooled_one_is_of(
    tmp_path: Path,
) -> None:
    """Seeds that one side alone has are in the table, and in no difference."""
    for model in ("mobilenet", "mobilenetv2"):
        for size, seed in ((16, 0), (16, 1), (16, 2), (64, 0)):
            skill = 6.0 if seed else 1.0
            write_run(tmp_path, made_up(skill, [len(model), size, seed]), model=model,
                      batch_size=size, seed=seed, test_fraction=0.2)  # fmt: skip
    found = compared(tmp_path)
    smaller, _ = claims(found)
    pooled = found.planned["batch size"][0]
    each = re.search(r"Of each: by accuracy mobilenet (\S+), mobilenetv2 ([^;]+);", smaller)
    assert each and pooled.metric == "accuracy"
    values = [float(text.replace("−", "-")) for text in each.groups()]
    assert sum(values) / 2 == pytest.approx(pooled.difference, abs=0.001)
    assert any("only the runs whose seeds both sides have" in line for line in caveats(found))


def test_networks_that_the_paper_did_not_have_do_not_judge_its_claims(tmp_path: Path) -> None:
    """An EfficientNet that is best, at 64, says nothing of the paper's nine."""
    skills = {("nasnetmobile", 16): 6.0, ("mobilenet", 16): 2.0}
    write_grid(
        tmp_path, lambda model, size: skills.get((model, size), 0.8), seeds=(0, 1, 2),
        models=("mobilenet", "nasnetmobile"), sizes=(16, 64),
    )  # fmt: skip
    before = claims(compared(tmp_path))
    for size, skill in ((16, 0.3), (64, 9.0)):
        for seed in range(3):
            write_run(tmp_path, made_up(skill, [size, seed]), model="efficientnetb0",
                      batch_size=size, seed=seed, test_fraction=0.2)  # fmt: skip
    found = compared(tmp_path)
    best = max(found.rows, key=lambda row: row.values["accuracy"].value)
    assert str(best.cell) == "efficientnetb0-64"
    among = " (among the paper's own configurations)"
    assert all(among in told for told in claims(found))
    assert [told.replace(among, "") for told in claims(found)] == before
