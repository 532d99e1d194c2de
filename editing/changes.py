"""Reports of an edit: the current labels of each face, and whether the edit changes it."""

import torch

from data.request import Request
from editing.editor import Editor
from editing.subjects import Code, Subjects


def describe_changes(editor: Editor, faces: Subjects, request: Request, target: Code) -> list[dict]:
    """For each face a dict {face, labels, source, changed}.

    `labels` maps each requested name to 0, 1 or None (unknown). `source` says where the labels come from. `changed` is
    True if the code differs from `target` (of `Editor.target`).
    """
    code = editor.codes(faces)
    changed = torch.zeros(len(faces), dtype=torch.bool)
    for key, value in code.items():
        if target[key] is not value:
            changed |= (target[key] != value).flatten(1).any(1)
    known, labels, names = editor.labels(faces), editor.predict_labels(faces), editor.label_names()
    requested = [item.name for item in request.attributes] + (editor.classes if request.classes else [])
    columns = [names.index(name) for name in requested]
    found = []
    for i, name in enumerate(faces.names):
        unknown = bool(known[i, columns].isnan().any())
        source = "given by --from" if faces.given else editor.label_source if unknown else "known from the data"
        current = {names[c]: None if labels[i, c].isnan() else round(labels[i, c].item()) for c in columns}
        found.append({"face": name, "labels": current, "source": source, "changed": bool(changed[i])})
    return found


def format_changes(editor: Editor, request: Request, changes: list[dict]) -> list[str]:
    """One line for each photo, each face without labels, and each face that the edit does not change."""
    lines = []
    for change in changes:
        present = [name for name in change["labels"] if name in editor.classes and change["labels"][name]]
        present += [
            f"{name}={v}" for name, v in change["labels"].items() if name not in editor.classes and v is not None
        ]
        what = f"{change['face']}: {', '.join(present) or 'its labels are unknown'} ({change['source']})"
        if not change["changed"]:
            lines.append(f"{what}; it already has {request} and is unchanged. {how_to_force(editor, request)}")
        elif change["source"] != "known from the data":
            lines.append(f"{what}; requested: {request}")
    return lines


def how_to_force(editor: Editor, request: Request) -> str:
    """The option that edits the face anyway."""
    item = next(iter(request))
    if item.is_class:
        other = next(
            (name for name in ("neutral", *editor.classes) if name in editor.classes and name != item.name), ""
        )
        return f"To edit it anyway, give its current label: --from {other}"
    if item.form == "set":
        return f"To edit it anyway, give its current label: --from {item.name}={1 - int(item.value)}"
    return f"To edit it anyway, give its current label with --from {item.name}=0 or 1"
