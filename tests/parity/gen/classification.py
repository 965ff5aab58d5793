"""`classification.json`: measures of scikit-learn, with ties, and with classes that nobody has or nobody says.

    python classification.py FIXTURES       (scikit-learn 1.9.1, numpy 2.4.6)

`FIXTURES` is `tests/fixtures/objectives`.
"""

import argparse
import json
import math
import pathlib
import warnings

import numpy as np
import sklearn
from sklearn import metrics

warnings.simplefilter("ignore")


def scores_and_labels(seed, rows, classes, decimals, said=None, had=None):
    """Scores in float32, rounded so that rows tie; labels that follow them half of the time."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(size=(rows, classes)) * 2, decimals).astype(np.float32)
    if said is not None:
        scores[:, [c for c in range(classes) if c not in said]] -= 20
    labels = np.where(rng.random(rows) < 0.5, scores.argmax(1), rng.integers(0, classes, rows))
    had = list(range(classes)) if had is None else had
    labels = np.array([c if c in had else had[c % len(had)] for c in labels])
    return scores, labels


def weighted(truth, predicted):
    kinds = (("precision", metrics.precision_score), ("recall", metrics.recall_score), ("f1", metrics.f1_score))
    return {name: float(score(truth, predicted, average="weighted", zero_division=0)) for name, score in kinds}


def areas(truth, probabilities):
    """`truth` and `probabilities` are `[rows, classes]`; classes without rows, or without others, have no area."""
    defined = [c for c in range(truth.shape[1]) if 0 < truth[:, c].sum() < len(truth)]
    if not defined:
        return {}
    weights = [truth[:, c].sum() for c in defined]
    values = [metrics.roc_auc_score(truth[:, c], probabilities[:, c]) for c in defined]
    return {"roc_auc": float(np.average(values, weights=weights))}


def one_class(name, scores, labels):
    wide = scores.astype(np.float64)
    odds = np.exp(wide - wide.max(1, keepdims=True))
    # `fsum` does not depend on the order: what is tied but for the order of a sum is tied.
    probabilities = odds / np.array([math.fsum(row) for row in odds])[:, None]
    predicted, classes = scores.argmax(1), scores.shape[1]
    truth = np.eye(classes, dtype=int)[labels]
    if classes == 2:
        area = areas(truth[:, 1:], probabilities[:, 1:])
        if area:
            assert np.isclose(area["roc_auc"], metrics.roc_auc_score(labels, probabilities[:, 1]))
    else:
        area = areas(truth, probabilities)
        if len(set(labels)) == classes:
            whole = metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="weighted")
            assert np.isclose(area["roc_auc"], whole)
    return {"name": name, "labels": labels.tolist(), "scores": scores.tolist(), "expected": {
        "accuracy": float(metrics.accuracy_score(labels, predicted)),
        "balanced_accuracy": float(metrics.balanced_accuracy_score(labels, predicted)),
        **weighted(labels, predicted), **area}}


def several_classes(name, scores, labels):
    predicted = (scores > 0).astype(int)
    area = areas(labels, scores.astype(np.float64))
    if all(0 < n < len(labels) for n in labels.sum(0)):
        assert np.isclose(area["roc_auc"], metrics.roc_auc_score(labels, scores, average="weighted"))
    return {"name": name, "labels": labels.tolist(), "scores": scores.tolist(), "expected": {
        "accuracy": float(metrics.accuracy_score(labels, predicted)), **weighted(labels, predicted), **area}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures", type=pathlib.Path)
    args = parser.parse_args()
    one = [
        one_class("two classes", *scores_and_labels(1, 24, 2, 3)),
        one_class("two classes, ties", *scores_and_labels(2, 30, 2, 0)),
        one_class("two classes, one of them in no row", *scores_and_labels(3, 12, 2, 1, had=[1])),
        one_class("two classes, one of them never said", *scores_and_labels(4, 12, 2, 1, said=[0])),
        one_class("four classes", *scores_and_labels(5, 40, 4, 3)),
        one_class("four classes, ties", *scores_and_labels(6, 40, 4, 0)),
        one_class("four classes, one in no row and said", *scores_and_labels(7, 30, 4, 1, had=[0, 1, 3])),
        one_class("four classes, one in rows and never said", *scores_and_labels(8, 30, 4, 1, said=[0, 2, 3])),
        one_class("five classes, one neither in rows nor said",
                  *scores_and_labels(9, 30, 5, 1, said=[0, 1, 2, 3], had=[0, 1, 2, 3])),
        one_class("three classes, one row", *scores_and_labels(10, 1, 3, 2)),
    ]
    rng = np.random.default_rng(20)
    scores = np.round(rng.normal(size=(24, 3)) * 2, 0).astype(np.float32)
    labels = (rng.random((24, 3)) < [0.5, 0.2, 0.8]).astype(int)
    alone = labels.copy()
    alone[:, 1] = 0
    several = [
        several_classes("three classes, ties", scores, labels),
        several_classes("a class in no row", scores, alone),
        several_classes("no classes at all", scores, np.zeros_like(labels)),
    ]
    content = {"versions": {"scikit-learn": sklearn.__version__, "numpy": np.__version__},
               "one_class": one, "several_classes": several}
    lines = [f'  "{key}": [\n    ' + ",\n    ".join(json.dumps(case, separators=(",", ":")) for case in content[key])
             + "\n  ]" for key in ("one_class", "several_classes")]
    text = '{\n  "versions": ' + json.dumps(content["versions"]) + ",\n" + ",\n".join(lines) + "\n}\n"
    assert json.loads(text) == content
    (args.fixtures / "classification.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
