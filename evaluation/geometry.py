"""Are the landmarks where they were asked for?"""

import numpy as np
import torch

from engine.errors import UserError
from evaluation.eval_data import EvalData
from evaluation.metric import Metric
from evaluation.classifier_metrics import normalised_error

FAILED = 0.1  # of the distance between the eyes


def metrics(eval_data: EvalData) -> list[Metric]:
    """NME of requested against re-detected landmarks, and how often the detector is lost, on real faces beside."""
    e = eval_data.export
    rows = e.rows_where(lambda row: bool(row.landmarks))
    found: list[Metric] = []
    for predictions in eval_data.judges_with("landmarks") if len(rows) else ():
        asked = torch.stack(
            [_read(e.rows[i].landmarks, predictions.fake["landmarks"].shape[1:]) for i in rows.tolist()]
        )
        error = normalised_error(predictions.fake["landmarks"][e.file[rows]], asked)
        error = error[error.isfinite()]
        beside, lost = {}, {}
        if eval_data.real.landmarks.shape[1] == asked.shape[1]:
            real = normalised_error(predictions.real["landmarks"], eval_data.real.landmarks)
            real = real[real.isfinite()]
            beside, lost = {"real": float(real.mean())}, {"real": float((real > FAILED).double().mean())}
        name = f"NME (requested against re-detected landmarks, over the eye distance, judge {predictions.name})"
        found.append(Metric("NME", name, float(error.mean()), "low", len(error), beside, predictions.name))
        share = float((error > FAILED).double().mean())
        name = f"landmark failures (NME above {FAILED}, judge {predictions.name})"
        found.append(Metric("landmark failures", name, share, "low", len(error), lost, predictions.name))
    return found


def _read(path: str, shape: tuple[int, ...]) -> torch.Tensor:
    try:
        points = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as landmarks ({error}); expected an .npy of {tuple(shape)}") from None
    if points.shape != tuple(shape):
        raise UserError(f"{path}: holds {points.shape}, and the judge finds {tuple(shape)}")
    return torch.from_numpy(points.astype(np.float32))
