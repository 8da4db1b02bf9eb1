"""Which classes of a predictions table figures are told of, and what their metrics are called."""

from collections.abc import Sequence

from skinml.base.names import identifier
from skinml.data.datasets import challenge_tasks


def sought(classes: Sequence[str]) -> str | None:
    """The class that a threshold is chosen for: the melanomas; of two classes else the second.

    The second in alphabetical order, as scikit-learn has it ("malignant" beside "benign"). None
    where neither holds: which of several classes matters most is not for a program to say.
    """
    if "melanoma" in classes:
        return "melanoma"
    return classes[1] if len(classes) == 2 else None


def against_the_rest(classes: Sequence[str]) -> tuple[str, ...]:
    """The classes whose figures against the rest are told: of two the one that is `sought`.

    The other's say the same once more: its sensitivity is the first one's specificity.
    """
    return tuple(label for label in classes if len(classes) > 2 or label == sought(classes))


def told_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes with figures of their own: a challenge's tasks first; of two classes one."""
    tasks = challenge_tasks(classes).values()
    return (*tasks, *(label for label in against_the_rest(classes) if label not in tasks))


# How long names of classes are cut short in a heading; others stand as they are.
_SHORT = {"melanoma": "mel.", "seborrheic_keratosis": "seb. k."}


def shortened(label: str) -> str:
    """A class's name in the heading of a column."""
    return _SHORT.get(label, label.replace("_", " "))


def of_class(metric: str, label: str) -> str:
    """The name of the metric of one class, such as "sensitivity_nevus"."""
    return f"{metric}_{identifier(label)}"
