"""The data sets that are known by name, a row each in `DATASETS`; a person's own are made here too.

A data set is a value: it is passed to what prepares, splits, trains and evaluates, and its classes
travel with what they make. A new one is a row here and, where its files lie as no other's do, a
layout (`skinml.data.layout`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from skinml.base.errors import Problems, UserError, did_you_mean
from skinml.base.files import at_home
from skinml.base.names import LONGEST, identifier
from skinml.config import is_path
from skinml.data import archive_sets, demo, isic2017, published
from skinml.data.isic2017 import OfficialPart
from skinml.data.layout import Layout, Source
from skinml.data.official import ISIC_2017
from skinml.data.own import OWN
from skinml.data.prepared import SUBGROUP
from skinml.data.published import PublishedFile

LEAST_CLASSES, MOST_CLASSES = 2, 50

# Words that stand in the same tables as the names of classes, or end the same metrics' names.
_TAKEN = {
    *("image_id", "image", "label", "file", "error", "notice", "threshold", "margin", "near"),
    *("macro", "weighted"),
}


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set beside its pictures.

    `name` is what `data=` takes, `title` what reports call it. `classes` are in alphabetical order,
    in which every table, confusion matrix and model has them; empty where they are read from the
    files. `layout` finds its pictures. `parts` are the official ones, with the counts published;
    `tasks` are the binary tasks of its challenge: the challenge's name for the metric → the class.
    `downloads` is the address that its files are fetched from, empty where a person has to; then
    `files` are those that a person fetches, and `counts` the published pictures of each class.
    `notice` is said wherever a model answers that was trained on it. `as_stored` leaves its
    pictures as the files have them: what its published results, and ours, were made from.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    layout: Layout
    parts: tuple[OfficialPart, ...] = ()
    tasks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    homepage: str = ""
    downloads: str = ""
    files: tuple[PublishedFile, ...] = ()
    counts: tuple[int, ...] = ()
    licence: str = ""
    citation: str = ""
    notice: str = ""
    as_stored: bool = False

    def __post_init__(self) -> None:
        if self.classes and (problems := class_problems(self.classes)):
            raise ValueError(f"{self.name}: {'; '.join(problems)}")


def class_problems(names: Sequence[str]) -> list[str]:
    """What is wrong with names of classes, a line each; empty where nothing is."""
    problems = []
    if len(names) < LEAST_CLASSES:
        found = f" ({names[0]!r})" if names else ""
        problems.append(f"{len(names)} class{found}, expected at least {LEAST_CLASSES}")
    if len(names) > MOST_CLASSES:
        problems.append(f"{len(names)} classes, expected at most {MOST_CLASSES}")
    if list(names) != sorted(set(names)):
        problems.append(f"classes {', '.join(names)}: expected each once, in alphabetical order")
    by_identifier: dict[str, str] = {}
    for name in names:
        own = identifier(name)
        if not own or not name.isprintable() or name != name.strip():
            problems.append(f"class {name!r}: expected letters or digits in it, none unprintable")
        elif len(name) > LONGEST:
            problems.append(f"class {name[:30]!r}…: {len(name)} letters, expected up to {LONGEST}")
        elif own in _TAKEN or name.startswith(SUBGROUP):
            problems.append(f"class {name!r}: a word that tables and metrics use, expected another")
        elif (other := by_identifier.setdefault(own, name)) != name:
            problems.append(
                f"classes {other!r} and {name!r}: metrics of both would be named {own!r}, expected "
                "names that differ in more than signs"
            )
    return problems


def thresholds_note(classes: Sequence[str]) -> list[str]:
    """A line on the class that thresholds are chosen for where none is exactly "melanoma".

    As `skinml.evaluation.classes.sought` has it, which stands above the data; a test compares them.
    """
    if "melanoma" in classes:
        return []
    chosen = f"chosen for {classes[1]}" if len(classes) == 2 else "not chosen for any class"
    near = [name for name in classes if name.strip().casefold() == "melanoma"]
    remedy = f": rename {near[0]} to melanoma, if it is that" if near else ""
    kind = "warning" if near else "note"
    return [f"{kind}: thresholds are {chosen}, as no class is named exactly melanoma{remedy}"]


def classes_of(sources: list[Source], dataset: DataSet, problems: Problems) -> tuple[str, ...]:
    """The classes of a set: the data set's own, else those of its pictures, which may be wrong."""
    if dataset.classes:
        return dataset.classes
    labels = tuple(sorted({source.label for source in sources}))
    for problem in class_problems(labels):
        problems.add("classes", problem)
    return labels[: MOST_CLASSES + 1]


ISIC2017 = DataSet(
    name="isic2017",
    title="ISIC 2017",
    classes=isic2017.CLASSES,
    layout=ISIC_2017,
    parts=isic2017.OFFICIAL_PARTS,
    tasks=MappingProxyType(isic2017.TASKS),
    homepage=isic2017.HOMEPAGE,
    downloads=isic2017.DOWNLOADS,
    licence=isic2017.LICENSE,
    citation="arXiv 1710.05006",
    # Some have the profile of a camera: converted, they would be another data set.
    as_stored=True,
)

DEMO = DataSet(
    name="demo",
    title="generated demo images",
    classes=isic2017.CLASSES,
    layout=ISIC_2017,
    tasks=ISIC2017.tasks,
    notice=demo.MODEL_NOTICE,
    as_stored=True,
)

HAM10000 = DataSet(
    name="ham10000",
    title="HAM10000",
    classes=tuple(sorted(archive_sets.HAM10000_CODES.values())),
    layout=archive_sets.HAM10000,
    homepage="https://doi.org/10.7910/DVN/DBW86T",
    files=(*published.HAM10000, *published.ISIC_2018),
    counts=(327, 514, 1099, 115, 1113, 6705, 142),
    licence="CC BY-NC 4.0; the terms at the homepage hold",
    citation="Tschandl, Rosendahl & Kittler, Sci. Data 5, 180161 (2018)",
)

ISIC2019 = DataSet(
    name="isic2019",
    title="ISIC 2019",
    classes=tuple(sorted(archive_sets.ISIC2019_CODES.values())),
    layout=archive_sets.ISIC_2019,
    homepage="https://challenge.isic-archive.com/data/#2019",
    files=published.ISIC_2019,
    counts=(867, 3323, 2624, 239, 4522, 12875, 628, 253),
    licence="CC BY-NC 4.0; the terms at the homepage hold",
    citation="arXiv 1710.05006, arXiv 1908.02288, Sci. Data 5, 180161 (2018)",
)

PAD_UFES_20 = DataSet(
    name="pad-ufes-20",
    title="PAD-UFES-20",
    classes=tuple(sorted(archive_sets.PAD_UFES_20_CODES.values())),
    layout=archive_sets.PAD_UFES_20,
    homepage="https://doi.org/10.17632/zr7vgbcyr2.1",
    files=published.PAD_UFES_20,
    counts=(730, 845, 52, 244, 235, 192),
    licence="CC BY 4.0",
    citation="Pacheco et al., Data in Brief 32, 106221 (2020)",
)

DATASETS = {row.name: row for row in (ISIC2017, DEMO, HAM10000, ISIC2019, PAD_UFES_20)}


def find_dataset(data: str) -> DataSet:
    """The data set that `data=` names: a row of `DATASETS`, or a person's own by its path."""
    if data in DATASETS:
        return DATASETS[data]
    if is_path(data):
        name = own_name(data)
        return DataSet(name, name, (), OWN)
    raise UserError(
        f"data={data!r}: expected one of {', '.join(DATASETS)}{did_you_mean(data, DATASETS)}, or "
        f"the path of your own pictures: a folder (./{data}) or a table (pictures.csv)"
    )


def title_of(data: str) -> str:
    """What reports call a data set by the name that runs have of it; a person's own by that."""
    return DATASETS[data].title if data in DATASETS else data


def own_name(path: str) -> str:
    """What a person's own pictures are called in tables and tags: never the path itself.

    A folder's name is taken whole: clinic.v1 and clinic.v2 are two data sets.
    """
    name = at_home(path, "data=").resolve().name
    if name.lower().endswith(".csv"):
        name = name[: -len(".csv")]
    return f"own-{identifier(name) or 'pictures'}"


def challenge_tasks(classes: Sequence[str]) -> Mapping[str, str]:
    """The binary tasks of the challenge that has these classes, empty where none has.

    The challenge's name for the metric → the class that it tells from the rest.
    """
    return next((r.tasks for r in DATASETS.values() if r.classes == tuple(classes)), {})


def classes_said(params: Mapping[str, str]) -> tuple[str, ...]:
    """The classes of a run by its parameters; runs of before they were one are of ISIC 2017."""
    return tuple(json.loads(params["classes"])) if "classes" in params else ISIC2017.classes
