"""What the code that decides a result does, as digests: one of a training, one of an evaluation.

A digest covers the functions, classes and constants that its entry points reach, wherever in the
package they stand, by their syntax trees. Comments, docstrings, help texts, annotations and the
words of errors are left out: they may change, and definitions may move from file to file, without
asking for a new training.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from skinml.backbones import BACKBONES

PACKAGE = Path(__file__).parents[1]

Roots = Mapping[str, tuple[str, ...]]
"""Module → the names in it that a digest begins with."""

_Node = TypeVar("_Node", bound=ast.AST)

# Images to parts, these to a trained network, and its scores: the predictions tables. What makes
# pixels of pictures is not in it, as the digest of the data is that of the pixels.
TRAINING: Roots = {
    "config": ("Config",),
    "data.protocols": ("assign_parts",),
    "evaluation.metrics": ("epoch_metrics",),
    "evaluation.predictions": ("write_predictions",),
    "evaluation.scoring": ("predict_part",),
    "models.classifier": ("build_classifier", "in_float32", "with_views"),
    "training.backend": ("configure", "choose_execution"),
    "training.loop": ("train",),
}

# Predictions tables to the figures of a run.
EVALUATION: Roots = {
    "evaluation.predictions": ("read_predictions",),
    "evaluation.results": ("evaluate_tables",),
    "evaluation.subgroups": ("figures_of_groups",),
    "data.isic2017": ("CLASSES", "TASKS"),
}

# Files, locks, progress and messages: no figure comes out differently by a change of these.
HARMLESS = frozenset(
    {
        "base.cache",
        "base.errors",
        "base.files",
        "base.locks",
        "base.processes",
        "base.progress",
        "base.signals",
        "training.history",
    }
)

# What a row of `skinml.evaluation.metrics` says of the figures themselves.
_FIGURE = ("name", "compute", "headline", "carriers")

# Tables to which rows are added. Of the networks the row of a run's own counts; of the data sets
# the tasks of their challenges do, which are among the roots.
_TABLES = {("backbones", "BACKBONES"), ("data.datasets", "DATASETS")}


class SameTrainings(NamedTuple):
    """Earlier code whose trainings end with the results of the training code `now`.

    `earlier` maps a digest (of a run's tag `training_digest` up to the dash, or `code_digest` as
    runs had it before) to the reason why its results are the same, which people are told. The
    table counts while `now` is the digest of the code: a further change makes it void by itself.
    """

    now: str
    earlier: dict[str, str]


SAME_TRAININGS = SameTrainings(
    "52975bdaa495",
    # EfficientNetB0's row has changed since the first: its trainings are others.
    {
        "2101cfb9038d": "since then a GPU's run with crops or mixtures tells that its images do "
        "not lie there, mixtures keep the weight of each class, and how views are averaged counts "
        "as training code; a MobileNet trained by both is the same to the last bit without these",
        "07d54b37061c": "since then there are more parameters, and recipe ours has other values; "
        "a MobileNet trained by both with the same values is the same to the last bit",
        "c866a737770f": "since then the last epoch of a step may be kept; a MobileNet trained by "
        "both that keeps the best is the same to the last bit",
        "feb1372ab3bc": "since then fine-tuning may train the last stage alone and keep the last "
        "epoch, and crops, mixtures and the focal loss are parameters; a MobileNet trained by both "
        "without them is the same to the last bit",
        "c4c5b0843991": "since then features are kept in blocks, weights loaded and AUCs computed "
        "otherwise; a MobileNetV2 trained by both is the same to the last bit; then the loop came "
        "in pieces, recipes are parameters and classes a data set's: so is a MobileNetV3Small; "
        "then there are more parameters: so is a MobileNet without them",
        "fd32ec16b875": "since then the loop is in pieces, recipes are parameters, classes are "
        "those of a data set, and what an image's groups are is found otherwise; a "
        "MobileNetV3Small trained by both on the same images is the same to the last bit, curves "
        "and scores; then there are more parameters: so is a MobileNet without them",
    },
)


@cache
def training_digest(model: str) -> str:
    """A digest of all code that decides a training of a network.

    Such as "3f2a9c0d11e2-77ab": 12 hexadecimal digits that all networks share, 4 of the network's
    own row in `BACKBONES`.
    """
    row = BACKBONES[model]
    own = repr((row.application, row.scale, row.offset, *(row.channel_scale or ())))
    return f"{_shared_training_digest()}-{hashlib.sha256(own.encode()).hexdigest()[:4]}"


@cache
def evaluation_digest() -> str:
    """A digest of all code that makes the figures of a run from its predictions tables."""
    return _digest_of(PACKAGE, EVALUATION)


def trained_by(tags: Mapping[str, str]) -> str:
    """The digest of the training code of a run, by its tags or parameters; empty where unknown.

    Runs of earlier versions have `code_digest`, a digest of whole files.
    """
    return tags.get("training_digest") or tags.get("code_digest", "")


def why_same(earlier: str, model: str) -> str | None:
    """Why the training code `earlier` counts as today's; empty if it is, None if it does not."""
    now = training_digest(model)
    if earlier == now:
        return ""
    if common_part(now) != SAME_TRAININGS.now:
        return None
    _, _, own = earlier.partition("-")
    whole = earlier if own else f"{earlier}-{now[-4:]}"
    if own in ("", now[-4:]) and common_part(earlier) in SAME_TRAININGS.earlier:
        return SAME_TRAININGS.earlier[common_part(earlier)]
    return SAME_TRAININGS.earlier.get(whole)


def common_part(digest: str) -> str:
    """A training's digest without the part of its network's row in `BACKBONES`."""
    return digest.partition("-")[0]


@cache
def _shared_training_digest() -> str:
    return _digest_of(PACKAGE, TRAINING)


def _digest_of(package: Path, roots: Roots) -> str:
    # By what the definitions say, not by where they stand.
    texts = sorted(text for _, texts in reachable(package, roots) for text in texts)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def reachable(package: Path, roots: Roots) -> list[tuple[str, list[str]]]:
    """All that some definitions of a package use, themselves included, however far away.

    Pairs of a name, such as "training.loop.train", and the canonical text of each statement that
    defines it. Statements of a module that define nothing (a loop, a call) belong to every
    definition of it, under the module's name and a dot. A root that is not there is a `ValueError`.
    """
    modules: dict[str, _Module] = {}
    todo = [(module, name) for module, names in roots.items() for name in names]
    expected, seen, found = set(todo), set[tuple[str, str]](), []
    while todo:
        key = module, name = todo.pop()
        if key in seen or key in _TABLES or module in HARMLESS:
            continue
        seen.add(key)
        if module not in modules:
            modules[module] = _Module(package, module)
        own = modules[module]
        statements = own.definitions.get(name, [])
        if not statements and name in own.imports:
            todo.append(own.imports[name])
            continue
        if not statements and key in expected:
            raise ValueError(f"{module}.{name}: expected to be defined in {package.name}")
        found.append((f"{module}.{name}", [_canonical(own.bare[s]) for s in statements]))
        todo += [(module, ""), *(use for statement in statements for use in own.uses(statement))]
    return [(name, texts) for name, texts in sorted(found) if texts]


class _Module:
    """A module's top-level statements by the names they define, and what it imports of its package.

    `imports` maps a name to the module and the definition that it stands for, `bare` a statement to
    what of it decides a result.
    """

    def __init__(self, package: Path, name: str) -> None:
        self.name = name
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        self.bare: dict[ast.stmt, ast.AST] = {}
        self._modules: dict[str, str] = {}
        text = _file(package, name).read_text(encoding="utf-8")
        tree = ast.parse(text)
        # Within functions too: what is heavy is imported there.
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                self._note_import(package, node)
        # A second tree is taken apart: to copy statements takes five times as long.
        for statement, copied in zip(tree.body, ast.parse(text).body, strict=True):
            if bare := _bare(copied):
                self.bare[statement] = bare
                for defined in _names(statement):
                    self.definitions.setdefault(defined, []).append(statement)

    def _note_import(self, package: Path, node: ast.ImportFrom) -> None:
        root, *inner = (node.module or "").split(".")
        if root != package.name:
            return
        for alias in node.names:
            name = alias.asname or alias.name
            if _file(package, ".".join([*inner, alias.name])).is_file():
                self._modules[name] = ".".join([*inner, alias.name])
            else:
                self.imports[name] = ".".join(inner), alias.name

    def uses(self, statement: ast.stmt) -> Iterator[tuple[str, str]]:
        """The definitions of the package that a statement names, in annotations too.

        A class may be named nowhere else in what uses its methods.
        """
        for node in ast.walk(statement):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in self._modules:
                    yield self._modules[node.value.id], node.attr
            elif isinstance(node, ast.Name) and node.id in {**self.definitions, **self.imports}:
                yield self.name, node.id


def _file(package: Path, module: str) -> Path:
    """The file of a module; that of a folder is its `__init__.py`."""
    path = package.joinpath(*module.split(".")) if module else package
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _names(statement: ast.stmt) -> list[str]:
    """The names that a top-level statement defines; an empty one where it defines none."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    nodes = [node for target in targets for node in ast.walk(target)]
    return [node.id for node in nodes if isinstance(node, ast.Name)] or [""]


def _bare(statement: ast.stmt) -> ast.AST | None:
    """A statement, changed, without what decides no result; None where nothing is left of it."""
    bare: ast.AST | None = _Bare().visit(statement)
    return bare


class _Bare(ast.NodeTransformer):
    """Takes out what decides no result: texts, types, imports, words of errors and progress."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """A docstring, or a text below a field."""
        return None if isinstance(node.value, ast.Constant) else self._inside(node)

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_If(self, node: ast.If) -> ast.AST | None:
        types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if types else self._inside(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._inside(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        """A field of `Config` counts if it decides a result, a default with it."""
        call = node.value
        if isinstance(call, ast.Call) and _called(call) == "_option":
            if any(k.arg == "decides" and _is_false(k.value) for k in call.keywords):
                return None
            # What else it is given are the help and what is accepted.
            call.args, call.keywords = call.args[:1], []
        return self._inside(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """The words of an error."""
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return self._inside(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != "help"]
        if _called(node) in ("UserError", "print", "progress_bar", "advance"):
            node.args, node.keywords = [], []
        if _called(node) == "Metric":
            # What else a metric's row holds is how reports show it.
            node.args = node.args[:2]
            node.keywords = [k for k in node.keywords if k.arg in _FIGURE]
        return self._inside(node)

    def _inside(self, node: _Node) -> _Node:
        self.generic_visit(node)
        return node


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def _canonical(node: Any) -> str:
    """A syntax tree as text, the same under every version of Python that can run it.

    `ast.dump` is not: newer versions have fields that older ones lack, and leave out empty ones.
    """
    if isinstance(node, ast.AST):
        fields = {name: getattr(node, name, None) for name in node._fields}
        kept = (
            f"{name}={_canonical(value)}"
            for name, value in sorted(fields.items())
            if value not in (None, []) and name not in ("ctx", "kind", "type_comment")
        )
        return f"{type(node).__name__}({' '.join(kept)})"
    if isinstance(node, list):
        return f"[{' '.join(map(_canonical, node))}]"
    return repr(node)
