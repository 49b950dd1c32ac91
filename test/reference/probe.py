#!/usr/bin/python3
"""Makes test/fixtures/reference/probe.json: what scikit-learn's logistic regression fits to a few points.

    apt-get install -y python3-sklearn        # Debian 12: scikit-learn 1.2
    /usr/bin/python3 probe.py

scikit-learn's loss is a sum over the examples with C·loss + |W|²/2, lensmill's a mean with l2/2·|W|²: C = 1 / (l2·n).
"""
import json
from pathlib import Path

import numpy
import sklearn
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

FIXTURE = Path(__file__).parent.parent / "fixtures" / "reference" / "probe.json"


def fit(points, labels, l2):
    model = LogisticRegression(C=1 / (l2 * len(points)), multi_class="multinomial", tol=1e-10, max_iter=100_000)
    model.fit(points, labels)
    return {
        "l2": l2,
        "weights": model.coef_.ravel().tolist(),
        "biases": model.intercept_.tolist(),
        "probabilities": model.predict_proba(points)[::10].ravel().tolist(),
    }


def main():
    iris = load_iris()
    # Stored as float32, fitted from what is stored.
    points = StandardScaler().fit_transform(iris.data).astype("float32").round(4)
    fits = [fit(points.astype("float64"), iris.target, l2) for l2 in (1.0, 0.01, 1e-4)]
    reference = {
        "by": f"scikit-learn {sklearn.__version__}, iris (R. A. Fisher, 1936), standardised",
        "dimension": points.shape[1],
        "points": [round(float(value), 4) for value in points.ravel()],
        "labels": iris.target.tolist(),
        "fits": fits,
    }
    FIXTURE.write_text(json.dumps(reference) + "\n")


main()
