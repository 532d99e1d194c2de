"""Landmarks: requested positions against the positions that the judge predicts."""

import numpy as np
import torch

from engine.errors import UserError
from evaluation.classifier_metrics import normalised_error
from evaluation.eval_data import EvalData
from evaluation.metric import Metric

FAILURE_NME = 0.1  # an error above it is a failure; unit: distance of the eyes


def metrics(eval_data: EvalData) -> list[Metric]:
    """Normalised mean error (NME) of predicted against requested landmarks, and the share of failures."""
    e = eval_data.export
    rows = e.rows_where(lambda row: bool(row.landmarks))
    found: list[Metric] = []
    for predictions in eval_data.judges_with("landmarks") if len(rows) else ():
        requested = torch.stack(
            [_read(e.rows[i].landmarks, predictions.fake["landmarks"].shape[1:]) for i in rows.tolist()]
        )
        error = normalised_error(predictions.fake["landmarks"][e.file[rows]], requested)
        error = error[error.isfinite()]
        references, failures = {}, {}
        if eval_data.real.landmarks.shape[1] == requested.shape[1]:
            real = normalised_error(predictions.real["landmarks"], eval_data.real.landmarks)
            real = real[real.isfinite()]
            references, failures = {"real": float(real.mean())}, {"real": float((real > FAILURE_NME).double().mean())}
        name = f"NME (predicted against requested landmarks, over the eye distance, judge {predictions.name})"
        found.append(Metric("NME", name, float(error.mean()), "low", len(error), references, predictions.name))
        share = float((error > FAILURE_NME).double().mean())
        name = f"landmark failures (NME above {FAILURE_NME}, judge {predictions.name})"
        found.append(Metric("landmark failures", name, share, "low", len(error), failures, predictions.name))
    return found


def _read(path: str, shape: tuple[int, ...]) -> torch.Tensor:
    try:
        points = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as landmarks ({error}); expected an .npy of {tuple(shape)}") from None
    if points.shape != tuple(shape):
        raise UserError(f"{path}: has shape {points.shape}, expected {tuple(shape)} as the judge predicts")
    return torch.from_numpy(points.astype(np.float32))
