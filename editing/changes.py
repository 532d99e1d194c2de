"""What an edit reads in each face and what it does about it, said in sentences."""

import torch

from data.request import Request
from editing.editor import Editor
from editing.subjects import Code, Subjects


def describe_changes(editor: Editor, faces: Subjects, request: Request, target: Code) -> list[dict]:
    """For each face {face, read, source, changed}: its labels of what is asked for, where they come from, and whether
    its code moves towards `target` (`Editor.target`). `read` maps a name to 0, 1 or None (unknown)."""
    code = editor.codes(faces)
    moved = torch.zeros(len(faces), dtype=torch.bool)
    for key, value in code.items():
        if target[key] is not value:
            moved |= (target[key] != value).flatten(1).any(1)
    known, labels, names = editor.labels(faces), editor.predict_labels(faces), editor.label_names()
    asked = [item.name for item in request.attributes] + (editor.classes if request.classes else [])
    columns = [names.index(name) for name in asked]
    found = []
    for i, name in enumerate(faces.names):
        unknown = bool(known[i, columns].isnan().any())
        source = "given by --from" if faces.given else editor.label_source if unknown else "known from the data"
        read = {names[c]: None if labels[i, c].isnan() else round(labels[i, c].item()) for c in columns}
        found.append({"face": name, "read": read, "source": source, "changed": bool(moved[i])})
    return found


def sentences(editor: Editor, request: Request, changes: list[dict]) -> list[str]:
    """One sentence for each own or unlabelled face, and for each face that the edit leaves unchanged."""
    lines = []
    for change in changes:
        shown = [name for name in change["read"] if name in editor.classes and change["read"][name]]
        shown += [f"{name}={v}" for name, v in change["read"].items() if name not in editor.classes and v is not None]
        what = f"{change['face']}: {', '.join(shown) or 'its labels are unknown'} ({change['source']})"
        if not change["changed"]:
            lines.append(f"{what}; it shows {request} already and is unchanged. {how_to_move(editor, request)}")
        elif change["source"] != "known from the data":
            lines.append(f"{what}; asked for {request}")
    return lines


def how_to_move(editor: Editor, request: Request) -> str:
    """The option that moves a face all the same."""
    item = next(iter(request))
    if item.is_class:
        other = next(
            (name for name in ("neutral", *editor.classes) if name in editor.classes and name != item.name), ""
        )
        return f"To move it all the same, say what it shows now: --from {other}"
    if item.form == "set":
        return f"To move it all the same, say what it shows now: --from {item.name}={1 - int(item.value)}"
    return f"To move it all the same, say what it shows now with --from {item.name}=0 or 1"
