"""Train a classifier: `python -m evaluation.train_classifier --config configs/evaluation/synthetic32.yaml`.

The same command resumes. At the end the temperature is set on validation faces and the test figures are printed and
written to `test_metrics.json` in the run directory.
"""

import json
import os

import numpy as np

import engine
from data import build_faces
from engine.errors import UserError
from engine.files import atomic_text
from evaluation.classifier import TEST_METRICS, Classifier
from evaluation.config import ClassifierConfig
from evaluation.classifier_metrics import lines, test_metrics


def main(argv: list[str] | None = None) -> None:
    with engine.start(ClassifierConfig, argv=argv) as run:
        faces = build_faces(run.cfg.data)
        meta = faces.meta
        if "attr" in faces.train.labels:
            meta = meta | {"attribute_share": np.nanmean(faces.train.labels["attr"], 0).round(4).tolist()}
        for part in ("val", "test"):  # the temperature and the test figures at the end need both
            if not len(getattr(faces, part)):
                raise UserError(f"data: the {part} part is empty, and a classifier is graded on it; give more images")
        method = Classifier(run.cfg, meta)
        engine.fit(run, method, faces.train, faces.val)
        if run.rank == 0:
            result = test_metrics(method.eval(), faces.val, faces.test)
            atomic_text(run.dir / TEST_METRICS, json.dumps(result, indent=1))
            print(os.linesep.join(lines(result)))


if __name__ == "__main__":
    main()
