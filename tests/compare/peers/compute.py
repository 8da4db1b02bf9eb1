"""What programs that nobody here wrote say of two small tables of predictions.

    python compute.py figures.json

In an environment of its own with NumPy, scikit-learn 1.9.1, statsmodels, mlxtend 0.25.0 and
MLstatkit 0.1.91, beside an R with pROC. `test_peers.py` holds what is computed here against it.
"""

import importlib.metadata
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("melanoma", "nevus", "seborrheic_keratosis")
COUNTS = (14, 60, 21)

# To be corrected by Holm's method: with a tie, and with one that reaches 1.
P_VALUES = (0.04, 0.001, 0.2, 0.013, 0.013, 0.9, 0.0004)

R = """
suppressMessages(library(pROC))
table <- read.csv(commandArgs(TRUE)[1])
show <- function(name, value) cat(name, format(value, digits = 17), "\\n")
for (k in 0:2) {
  a <- roc(table$label == k, table[[paste0("first", k)]], direction = "<", quiet = TRUE)
  b <- roc(table$label == k, table[[paste0("second", k)]], direction = "<", quiet = TRUE)
  found <- roc.test(a, b, method = "delong", paired = TRUE)
  show(paste0("auc_first_", k), as.numeric(auc(a)))
  show(paste0("auc_second_", k), as.numeric(auc(b)))
  show(paste0("variance_first_", k), var(a, method = "delong"))
  show(paste0("variance_second_", k), var(b, method = "delong"))
  show(paste0("z_", k), as.numeric(found$statistic))
  show(paste0("p_", k), found$p.value)
}
first <- table$right_first == 1
second <- table$right_second == 1
show("binom_p", binom.test(sum(first & !second), sum(first != second))$p.value)
p <- as.numeric(strsplit(commandArgs(TRUE)[2], ",")[[1]])
adjusted <- p.adjust(p, "holm")
for (i in seq_along(p)) show(paste0("holm_", i - 1), adjusted[i])
"""


def tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (95,) and the scores of two networks (95, 3), of two decimals: many are tied.

    The classes are in the order of `CLASSES`.
    """
    rng = np.random.default_rng(19)
    labels = np.repeat(np.arange(3), COUNTS)
    difficulty = rng.normal(size=(len(labels), 3))
    found = []
    for skill in (1.6, 0.7):
        logits = difficulty + rng.normal(size=(len(labels), 3)) + skill * np.eye(3)[labels]
        scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        first_two = scores[:, :2].round(2)
        found.append(np.c_[first_two, (1 - first_two.sum(axis=1)).round(2)])
    return labels, found[0], found[1]


def by_r(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """The figures of R: pROC, binom.test, p.adjust."""
    names = ["label", *(f"{side}{k}" for side in ("first", "second") for k in range(3))]
    rights = [scores.argmax(axis=1) == labels for scores in (first, second)]
    columns = np.column_stack([labels, first, second, *rights])
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "table.csv")
        header = ",".join([*names, "right_first", "right_second"])
        np.savetxt(path, columns, "%.17g", ",", header=header, comments="")
        script = Path(scratch, "peers.R")
        script.write_text(R)
        out = subprocess.run(
            ["Rscript", str(script), str(path), ",".join(map(str, P_VALUES))],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    return {name: float(value) for name, value in map(str.split, out.splitlines())}


def by_python(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """The figures of the Python packages, by their names."""
    from MLstatkit import Delong_test
    from mlxtend.evaluate import mcnemar, mcnemar_table
    from sklearn import metrics
    from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
    from statsmodels.stats.proportion import proportion_confint

    answers = [scores.argmax(axis=1) for scores in (first, second)]
    counts = mcnemar_table(labels, *answers)
    sklearn = {}
    for name, scores, own in zip(("first", "second"), (first, second), answers, strict=True):
        sklearn[name] = {
            "accuracy": metrics.accuracy_score(labels, own),
            "precision_weighted": metrics.precision_score(labels, own, average="weighted"),
            "f1_weighted": metrics.f1_score(labels, own, average="weighted"),
        }
        aucs = [metrics.roc_auc_score(labels == k, scores[:, k]) for k in range(3)]
        sklearn[name] |= {f"auc_{label}": auc for label, auc in zip(CLASSES, aucs, strict=True)}
        sklearn[name]["auc_macro"] = np.mean(aucs)
        sklearn[name]["auc_weighted"] = np.average(aucs, weights=COUNTS)
    delong: dict[str, float] = {}
    for k in range(3):
        z, p = Delong_test(labels == k, first[:, k], second[:, k])[:2]
        delong |= {f"z_{k}": z, f"p_{k}": p}
    return {
        "scikit-learn": sklearn,
        "mlxtend": {"mcnemar_p": mcnemar(counts, exact=True)[1]},
        "statsmodels": {
            "mcnemar_p": mcnemar_of_statsmodels(counts, exact=True).pvalue,
            "wilson_14_of_14": proportion_confint(14, 14, method="wilson"),
            "wilson_0_of_95": proportion_confint(0, 95, method="wilson"),
        },
        "MLstatkit": delong,
    }


def main() -> None:
    found = by_python(*tables())
    kept = {f"{name} {importlib.metadata.version(name)}": own for name, own in found.items()}
    version = 'cat(paste0("pROC ", packageVersion("pROC"), ", R ", getRversion()))'
    asked = subprocess.run(["Rscript", "-e", version], capture_output=True, text=True, check=True)
    kept[asked.stdout.strip()] = by_r(*tables())
    Path(sys.argv[1]).write_text(json.dumps(kept, indent=2, default=float) + "\n")


if __name__ == "__main__":
    main()
