"""Export the generator or decoder of a run or a release as ONNX, and check it against torch.

    python scripts/export_onnx.py pretrained/vae [--out decoder.onnx]

The inputs are the entries of a code, the output is `image` (N, C, H, H) in [-1, 1]; N is free. The names, shapes and
types of the inputs are in the file and are printed. It needs the extra `onnx`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from editing.editor import Editor
from editing.release import unpacked
from editing.subjects import Code
from engine import UserError
from engine.errors import exit_on_user_error
from families import open_editor

OPSET = 18
TOLERANCE = 1e-4  # of a pixel in [-1, 1]
MAX_SHARE = (
    1e-3  # of pixels beyond it: a flow rounds to 256 levels, so a pixel at the edge of a level may differ by one
)


class Decoder(nn.Module):
    """`editor.decode` as a module whose arguments are the entries of a code."""

    def __init__(self, editor: Editor, names: list[str]) -> None:
        super().__init__()
        self.method, self.editor, self.names = editor.method, editor, names

    def forward(self, *entries: Tensor) -> Tensor:
        return self.editor.decode(dict(zip(self.names, entries, strict=True)))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory or release")
    parser.add_argument("--out", type=Path, help="file to write; default: decoder.onnx in the run directory")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        editor = open_editor(args.run, device="cpu")
        path = args.out or unpacked(args.run) / "decoder.onnx"
        export(editor, path)
        largest, share = check(editor, path)
        print(f"wrote {path}; largest difference from torch: {largest:.1e}, pixels beyond {TOLERANCE:g}: {share:.2%}")
        for name, value in sorted(example_code(editor, [0]).items()):
            print(f"input {name}: N x {' x '.join(map(str, value.shape[1:]))}, {str(value.dtype)[6:]}")


def example_code(editor: Editor, seeds: list[int]) -> Code:
    """Codes of generated faces; of noise images where a family generates none."""
    if "draw" not in editor.unsupported:
        return editor.draw(seeds).code
    shape = (editor.meta["channels"], editor.meta["image_size"], editor.meta["image_size"])
    images = [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in seeds]
    return editor.codes(editor.from_images(torch.stack(images)))


@torch.no_grad()
def export(editor: Editor, path: Path) -> None:
    """Write `editor.decode` as ONNX.

    Raises:
        UserError: the extra `onnx` is not installed.
    """
    try:
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError:
        raise UserError("ONNX export needs more packages; pip install -e '.[onnx]'") from None
    code = example_code(editor, [0, 1])
    editor.images(code)  # a flow keeps its inverse matrices, which are then constants of the export
    path.parent.mkdir(parents=True, exist_ok=True)
    names, batch = list(code), torch.export.Dim("N", min=1)
    torch.onnx.export(
        Decoder(editor, names).eval(),
        tuple(code.values()),
        path,
        input_names=names,
        output_names=["image"],
        opset_version=OPSET,
        dynamic_shapes=(tuple({0: batch} for _ in names),),
        external_data=False,
        verbose=False,
    )


def check(editor: Editor, path: Path) -> tuple[float, float]:
    """Largest difference of pixels from torch, and the share of pixels beyond TOLERANCE, of three other codes.

    Raises:
        UserError: the share is larger than MAX_SHARE.
    """
    import onnxruntime

    code = example_code(editor, [2, 3, 4])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = {entry.name for entry in session.get_inputs()}  # an entry that the decoder ignores is no input
    (image,) = session.run(["image"], {name: value.numpy() for name, value in code.items() if name in wanted})
    difference = np.abs(image - editor.images(code).numpy())
    largest, share = float(difference.max()), float((difference > TOLERANCE).mean())
    if share > MAX_SHARE:
        raise UserError(f"{path}: {share:.1%} of the pixels differ by more than {TOLERANCE:g} from torch")
    return largest, share


if __name__ == "__main__":
    main()
