"""Edits of inverted test faces (in W, in W+, by the encoder) and of generated faces, measured by a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from interface_gan.plan import MOVES
from interface_gan.project import AFTER_ENCODER, DEFAULT, project
from losses.image_metrics import psnr
from losses.quantise import to_bytes

FIRST_SEED = 1000  # seed of the first generated face


def real_flips(editor: Any, judge: Any, names: Sequence[str], num: int) -> tuple[dict[str, Any], str]:
    """Flip each of `names` (empty: all attributes with a boundary) of `num` test faces. Returns metrics and a table.

    The same is measured for 4 x `num` generated faces, whose labels the judge predicts. Target accuracy counts only
    faces whose inversion the judge classifies correctly. Leakage is the mean absolute change of the other attributes'
    probabilities, relative to the inversion.
    """
    faces = editor.subjects(editor.spread("test", num))
    labels, columns = editor.labels(faces), editor.label_names()
    chosen = [name for name in (names or editor.attributes) if editor.boundaries("w").row(name) >= 0]
    found: dict[str, Any] = {"num": num}
    lines = ["flip                 faces | target accuracy, leakage, cost of " + ", ".join(MOVES)]
    x = faces.images.to(editor.device)
    inversions = {"W": (replace(DEFAULT, steps_plus=0), None), "W+": (DEFAULT, None)}
    if editor.encoder is not None:
        inversions["encoder, then W+"] = (AFTER_ENCODER, editor.encoder.encode(x))
    for space, (options, start) in inversions.items():
        p = project(editor.generator, editor.method.discriminator.features, editor.stats, x, options, start)
        level = float(psnr(x, p.x_hat).mean())
        found[space] = {"psnr": level, "typicality": float(p.typicality.mean()), "flips": {}}
        lines.append(f"{space}: PSNR {level:.2f} dB, typicality {p.typicality.mean():.2f} (samples: 1)")
        for name in chosen:
            own = labels[:, columns.index(name)]
            result = flip_each_way(editor, judge, name, p.ws.cpu(), own, replace(faces, code=None))
            found[space]["flips"][name] = result
            lines.append(line_of(name, result))
    drawn = editor.draw(range(FIRST_SEED, FIRST_SEED + 4 * num))
    logits = judge.logits(to_bytes(drawn.images))
    found["generated"] = {"flips": {}}
    lines.append("generated faces")
    for name in chosen:
        own = (logits[:, judge.names.index(name)] > 0).float()
        drawn.batch["attr"][:, editor.meta["attributes"].index(name)] = own
        found["generated"]["flips"][name] = flip_each_way(editor, judge, name, drawn.code["ws"], own, drawn)
        lines.append(line_of(name, found["generated"]["flips"][name]))
    return found, "\n".join(lines)


def line_of(name: str, result: dict[str, Any]) -> str:
    """A line of the table."""
    moves = (result[move] for move in MOVES)
    cells = (f"{m['target_accuracy']:.2f} {m['leakage']:.3f} {m['cost']:.2f}" for m in moves)
    return f"{name:<20} {result['faces']:5d} | " + "  ".join(cells)


def flip_each_way(editor: Any, judge: Any, name: str, ws: Tensor, own: Tensor, faces: Any) -> dict[str, Any]:
    """Flip `name` of inverted faces ws (N, L, Z) with every move. own (N,): the faces' labels, 0 or 1."""
    column, request = judge.names.index(name), editor.parse(f"{name}=flip")
    others = [i for i, n in enumerate(judge.names) if n in judge.attributes and n != name]

    def read(codes: Tensor) -> tuple[Tensor, Tensor]:
        logits = judge.logits(to_bytes(editor.images({"ws": codes})))
        return (logits[:, column] > 0).float(), judge.probabilities(logits)[:, others]

    seen, before = read(ws)
    counted = seen == own
    result: dict[str, Any] = {"faces": int(counted.sum())}
    options = editor.options
    for move in MOVES:
        editor.options = replace(options, move=move)
        step = editor.plan(ws.mean(1), faces, request)
        after, others_after = read(ws + step.step[:, None])
        result[move] = {
            "target_accuracy": float((after == 1 - own)[counted].float().mean()),
            "leakage": float((others_after - before).abs().mean()),
            "cost": float(step.cost.mean()),
        }
    editor.options = options
    return result
