"""Measure the information in codes of landmarks: expression (wanted) and person (not wanted). Pure functions.

Symbols: z (N, D) codes; label (N,) and person (N,) int64.
"""

import torch
from torch import Tensor


def knn_accuracy(z: Tensor, label: Tensor, person: Tensor, k: int = 5) -> float:
    """Accuracy of a nearest-neighbour classifier of the label: majority of the k nearest codes of other persons."""
    d = torch.cdist(z.double(), z.double())
    d.masked_fill_(person[:, None] == person[None], float("inf"))
    nearest = d.topk(k, largest=False).indices  # (N, k)
    votes = torch.nn.functional.one_hot(label[nearest], int(label.max()) + 1).sum(1)  # (N, K)
    return float((votes.argmax(1) == label).double().mean())


def same_person_nearest(z: Tensor, label: Tensor, person: Tensor) -> float:
    """Share of faces whose nearest other code of the same class is of the same person; chance is about 1 / persons."""
    d = torch.cdist(z.double(), z.double()).fill_diagonal_(float("inf"))
    d.masked_fill_(label[:, None] != label[None], float("inf"))
    return float((person[d.argmin(1)] == person).double().mean())


def shape_r2(z: Tensor, shape: Tensor, person: Tensor) -> float:
    """R2 of a linear regression of the person's mean shape on the codes; near 0: codes do not show the person.

    It is fitted on every second person and measured on the others. shape (N, P, 2): landmarks of each face.
    """
    persons = person.unique()
    flat = shape.double().flatten(1)
    mean = torch.stack([flat[person == p].mean(0) for p in persons])[torch.searchsorted(persons, person)]
    fitted = torch.isin(person, persons[::2])
    a = torch.cat([z.double(), torch.ones(len(z), 1, dtype=torch.double)], 1)
    solution = torch.linalg.lstsq(a[fitted], mean[fitted]).solution
    error = (a[~fitted] @ solution - mean[~fitted]).square().sum()
    return float(1 - error / (mean[~fitted] - mean[fitted].mean(0)).square().sum())
