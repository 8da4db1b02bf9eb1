"""How the files of a data set lie: what `skinml.data.prepare` asks of each layout."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

from skinml.base.errors import Problems


class Reads(Protocol):
    """A place with picture files, such as a folder or an archive."""

    title: str

    def read(self, name: str) -> bytes:
        """The content of a file; `ImageProblem` where it cannot be read."""

    def stamp(self, name: str) -> str:
        """What changes when a file is replaced; cheap to know."""


class Source(NamedTuple):
    """One picture: its id, class, official part, and where its file is.

    `part` is empty in a set without parts. Pictures of one `group` (a lesion, a patient) never
    stand in two parts of a split; empty where it has none. `subgroups` are further facts about it,
    by the name of their column.
    """

    image_id: str
    label: str
    part: str
    pictures: Reads
    name: str
    group: str = ""
    subgroups: Mapping[str, str] = MappingProxyType({})

    def __str__(self) -> str:
        return f"{self.pictures.title}/{self.name}"

    def read(self) -> bytes:
        """The content of the file; `ImageProblem` where it cannot be read."""
        return self.pictures.read(self.name)

    def stamp(self) -> str:
        """What changes when the file is replaced."""
        return self.pictures.stamp(self.name)


class Layout(NamedTuple):
    """What finds the pictures of a data set, all of them functions of where its files lie.

    `sources` opens them, ordered by id; what is wrong goes to the `Problems`. `fingerprint` is a
    quick digest of what they are made from. `expected` says in words which files belong there.
    `facts` reads the `subgroups` of each image id anew where the fingerprint is not of them: an
    earlier version prepared sets without. `left_out` counts the files among the pictures that are
    none by their names, by ending, where a person may have meant them as pictures.
    """

    expected: str
    has_files: Callable[[Path], bool]
    has_pictures: Callable[[Path], bool]
    sources: Callable[[Path, Problems], AbstractContextManager[list[Source]]]
    fingerprint: Callable[[Path], str]
    facts: Callable[[Path, Problems], Mapping[str, Mapping[str, str]]] | None = None
    left_out: Callable[[Path], Mapping[str, int]] | None = None
