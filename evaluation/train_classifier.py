"""Train a classifier: `python -m evaluation.train_classifier --config configs/evaluation/synthetic32.yaml`.

The same command resumes. At the end the temperatures are fitted on validation faces, and the test metrics are printed
and written to `test_metrics.json` in the run directory.
"""

import json
import os

import numpy as np

import engine
from data import build_faces
from engine.errors import UserError
from engine.files import atomic_text
from evaluation.classifier import TEST_METRICS, Classifier
from evaluation.classifier_metrics import format_test_metrics, test_metrics
from evaluation.config import ClassifierConfig


def main(argv: list[str] | None = None) -> None:
    with engine.start(ClassifierConfig, argv=argv) as run:
        faces = build_faces(run.cfg.data)
        meta = faces.meta
        if "attr" in faces.train.labels:
            meta = meta | {"attribute_share": np.nanmean(faces.train.labels["attr"], 0).round(4).tolist()}
        for part in ("val", "test"):  # both are needed at the end of training
            if not len(getattr(faces, part)):
                raise UserError(f"data: the {part} split is empty, but it is needed; give more images")
        method = Classifier(run.cfg, meta)
        engine.fit(run, method, faces.train, faces.val)
        if run.rank == 0:
            result = test_metrics(method.eval(), faces.val, faces.test)
            atomic_text(run.dir / TEST_METRICS, json.dumps(result, indent=1))
            print(os.linesep.join(format_test_metrics(result)))


if __name__ == "__main__":
    main()
