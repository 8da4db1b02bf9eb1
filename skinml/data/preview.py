"""What pictures a data set has, before anything is made of them: `prepare --dry-run`."""

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skinml.base.errors import Problems, UserError
from skinml.base.processes import usable_cores
from skinml.base.progress import progress_bar
from skinml.data.datasets import DataSet, classes_of, thresholds_note
from skinml.data.duplicates import near_duplicate_groups, perceptual_hash
from skinml.data.foreign import says_burnt_in
from skinml.data.images import ImageProblem, decode_image, size_of
from skinml.data.isic2017 import PARTS
from skinml.data.layout import Source
from skinml.data.official import PICTURE_ENDINGS
from skinml.data.prepared import PreparedSet
from skinml.data.protocols import assign_parts
from skinml.data.published import compare_files
from skinml.data.worklog import in_order

# Items of a kind that are listed; the rest are counted.
_LISTED = 5


class Preview(NamedTuple):
    """What was found: as text for a person, and whether anything has to be mended first.

    `parts` are those that pictures have of their own, empty where they have none.
    """

    lines: list[str]
    problems: Problems
    parts: tuple[str, ...] = ()


def preview(folder: Path, dataset: DataSet, jobs: int | None = None) -> Preview:
    """Read every picture of a data set and say what there is; nothing is written."""
    problems = Problems()
    with dataset.layout.sources(folder, problems) as sources:
        classes = classes_of(sources, dataset, problems)
        usable, looks = _read(sources, dataset.as_stored, jobs or usable_cores(), problems)
    lines = [f"{len(sources)} pictures of {len(classes)} classes in {folder}"]
    lines += [*left_out_warning(folder, dataset), ""]
    lines += [*_counts(sources, classes), *_unlike_published(sources, dataset)]
    lines += compare_files(folder, dataset.files)
    if looks:
        widths, heights = np.array([look.size for look in looks]).T
        areas = widths * heights
        small, middle, large = (np.argsort(areas)[k] for k in (0, len(areas) // 2, -1))
        told = ", ".join(f"{widths[k]}×{heights[k]}" for k in (small, middle, large))
        lines.append(f"sizes: smallest, median, largest {told}")
    near = near_duplicate_groups([look.perceptual for look in looks])
    return Preview(
        [
            *lines,
            *_burnt_in([s for s, look in zip(usable, looks, strict=True) if look.burnt_in]),
            *_groups(sources),
            *_near_duplicates(usable, near),
            *thresholds_note(classes),
            *([] if problems else _too_few(usable, near, classes)),
        ],
        problems,
        tuple(part for part in PARTS if any(source.part == part for source in sources)),
    )


def left_out_warning(folder: Path, dataset: DataSet) -> list[str]:
    """A line that counts the files that are not taken for pictures, by ending; none without any."""
    found = dataset.layout.left_out(folder) if dataset.layout.left_out else {}
    if not found:
        return []
    told = ", ".join(f"{count:,} {ending}" for ending, count in found.items())
    return [
        f"warning: left out, as their names are not those of pictures: {told}; expected "
        f"{', '.join(PICTURE_ENDINGS)}: save pictures as one of these"
    ]


class _Look(NamedTuple):
    """What is seen of a picture: its perceptual hash, its size, whether it says that text is in."""

    perceptual: str
    size: tuple[int, int]
    burnt_in: bool


def _read(
    sources: list[Source], as_stored: bool, jobs: int, problems: Problems
) -> tuple[list[Source], list[_Look]]:
    """The sources whose pictures are usable, and what is seen of each, as it is prepared."""

    def look(source: Source) -> _Look | ImageProblem:
        try:
            content = source.read()
            perceptual = perceptual_hash(decode_image(content, as_stored))
            return _Look(perceptual, size_of(content), says_burnt_in(content))
        except ImageProblem as problem:
            return problem

    usable, looks = [], []
    with ThreadPoolExecutor(jobs) as pool, progress_bar("reading", len(sources)) as advance:
        found = in_order(pool, look, sources, ahead=4 * jobs)
        for source, seen in zip(sources, found, strict=True):
            if isinstance(seen, ImageProblem):
                problems.add("unusable images", f"{source}: {seen}")
            else:
                usable.append(source)
                looks.append(seen)
            advance()
    return usable, looks


def _counts(sources: list[Source], classes: tuple[str, ...]) -> list[str]:
    """A line a class, a column a part."""
    parts = [part for part in PARTS if any(s.part == part for s in sources)]
    counts = Counter((source.label, source.part) for source in sources)
    width = max(len("all"), *map(len, classes), 5)
    columns = [*parts, "all"] if parts else ["all"]
    lines = [f"{'':<{width}}" + "".join(f"{name:>12}" for name in columns)]
    for label in (*classes, "all"):
        own = [
            sum(
                n
                for (found, part), n in counts.items()
                if label in (found, "all") and column in (part, "all")
            )
            for column in columns
        ]
        lines.append(f"{label:<{width}}" + "".join(f"{n:>12,}" for n in own))
    lacking = [
        f"warning: the {part} part has no picture of {label}; every part needs every class"
        for part in parts
        for label in classes
        if not counts[label, part]
    ]
    return [*lines, *lacking, ""]


def _unlike_published(sources: list[Source], dataset: DataSet) -> list[str]:
    """That a data set by name has other numbers of pictures than were published; else nothing."""
    found = Counter(source.label for source in sources)
    told = [
        f"{found[label]:,} of {label} ({count:,})"
        for label, count in zip(dataset.classes, dataset.counts, strict=False)
        if found[label] != count
    ]
    return [f"warning: not the published numbers: {', '.join(told)}"] if told else []


def _burnt_in(sources: list[Source]) -> list[str]:
    if not sources:
        return []
    told = [f"  {source}" for source in sources[:_LISTED]]
    more = [f"  … and {len(sources) - _LISTED} more"] if len(sources) > _LISTED else []
    heading = "warning: text is burnt into pictures, by their DICOM files, which may name a patient"
    return [f"{heading} ({len(sources)}):", *told, *more]


def _of(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _groups(sources: list[Source]) -> list[str]:
    """How many groups there are, and those whose pictures have more than one label."""
    labels: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        if source.group:
            labels[source.group].add(source.label)
    if not labels:
        return ["no groups: pictures of one lesion are known by their likeness alone"]
    alone = sum(not source.group for source in sources)
    sizes = Counter(source.group for source in sources if source.group)
    lines = [
        f"{_of(len(labels), 'group')} of up to {_of(max(sizes.values()), 'picture')}"
        + (f"; {_of(alone, 'picture')} without one" if alone else "")
    ]
    mixed = {group: own for group, own in labels.items() if len(own) > 1}
    return lines + mixed_groups(mixed)


def mixed_groups(mixed: dict[str, set[str]]) -> list[str]:
    """Lines on groups with more than one label, which stay together and keep their labels."""
    if not mixed:
        return []
    told = [f"  {group}: {', '.join(sorted(own))}" for group, own in list(mixed.items())[:_LISTED]]
    more = [f"  … and {len(mixed) - _LISTED} more"] if len(mixed) > _LISTED else []
    verb = "has" if len(mixed) == 1 else "have"
    heading = f"warning: {_of(len(mixed), 'group')} {verb} pictures of several classes (right for "
    return [f"{heading}patients, wrong for lesions):", *told, *more]


def _too_few(sources: list[Source], near: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    """A line on classes that are too small for the default split: it is drawn.

    No number of groups says so: what a class gets depends on its groups' sizes and on the others.
    """
    ids = np.array([source.image_id for source in sources])
    groups = np.array([source.group for source in sources])
    labels = np.array([classes.index(source.label) for source in sources], dtype=np.int64)
    # Without pixels, which a split does not look at where near-duplicates stay together.
    data = PreparedSet(
        Path(), np.empty((len(ids), 0), np.uint8), ids, labels, np.full(len(ids), ""), ids,
        classes, ids[near], groups if groups.any() else None,
    )  # fmt: skip
    try:
        assign_parts(data, "paper")
    except UserError as error:
        return [f"warning: as things are a training would refuse them: {error}"]
    return []


def _near_duplicates(sources: list[Source], near: np.ndarray) -> list[str]:
    members: dict[int, list[Source]] = defaultdict(list)
    for source, number in zip(sources, near.tolist(), strict=True):
        members[number].append(source)
    several = [own for own in members.values() if len(own) > 1]
    across = [own for own in several if len({source.part for source in own}) > 1]
    count = _of(sum(map(len, several)), "picture")
    lines = [f"{count} in {_of(len(several), 'group')} of near-duplicates"]
    if across:
        lines.append(f"warning: {_of(len(across), 'group')} of these in more than one part:")
        for own in across[:_LISTED]:
            lines.append("  " + " = ".join(f"{s.image_id} ({s.part})" for s in own))
        if len(across) > _LISTED:
            lines.append(f"  … and {len(across) - _LISTED} more")
    return lines
