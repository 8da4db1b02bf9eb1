#!/usr/bin/env bash
# Guess: the first point of scikit-learn's ROC curve that reaches a sensitivity has the highest
# specificity at which a threshold reaches it.
# scikit-learn 1.9.1: not by default. `roc_curve` leaves out points in line with their neighbours,
# which an AUC does not notice; with scores of two decimals a specificity read off it is up to 3
# points too low. The ISIC 2017 challenge read its specificities off such a curve.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import sklearn
from sklearn.metrics import auc, roc_curve

rng = np.random.default_rng(17)
positive = rng.random(600) < 0.2
scores = (((rng.normal(size=600) + positive).clip(-3, 4) + 3) / 7).round(2)
print(f"scikit-learn {sklearn.__version__}, 600 images, {positive.sum()} of the class")
found = []
for dropped in (True, False):
    false_alarms, sensitivity, _ = roc_curve(positive, scores, drop_intermediate=dropped)
    specificity = 1 - false_alarms[np.argmax(sensitivity >= 0.95)]
    found.append((auc(false_alarms, sensitivity), specificity))
    print(f"drop_intermediate={dropped!s:<5}  {len(sensitivity):2} points  AUC {found[-1][0]:.6f}  "
          f"specificity at sensitivity .95: {specificity:.4f}")
assert np.isclose(found[0][0], found[1][0]), "this has changed"
assert found[1][1] - found[0][1] > 0.03, "this has changed"
PYTHON
