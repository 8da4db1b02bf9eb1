#!/usr/bin/env bash
# Guess: a class that no image has, and to which every score is 0, changes no measure of the scores:
# the Brier score of melanoma against nevus is the same with an empty column for keratosis.
# scikit-learn 1.9.1: brier_score_loss halves the score of two classes (scale_by_half="auto", as for a
# single column of scores) and of no more. The same answers, with a column of zeros beside them, have
# twice the score: a calibration of two classes cannot be held beside that of three, nor a threshold
# of one be taken over to the other.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import sklearn
from sklearn.metrics import brier_score_loss

labels = np.array([0, 1, 1, 0])
two = np.array([[0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.9, 0.1]])
three = np.column_stack([two, np.zeros(4)])
one_column = brier_score_loss(labels, two[:, 1])
two_columns = brier_score_loss(labels, two)
with_empty = brier_score_loss(labels, three, labels=[0, 1, 2])
print(f"scikit-learn {sklearn.__version__}")
print(f"one column {one_column:.3f}, two {two_columns:.3f}, two and an empty third {with_empty:.3f}")
assert np.isclose(one_column, two_columns), "this has changed"
assert np.isclose(with_empty, 2 * two_columns), "this has changed"
PYTHON
