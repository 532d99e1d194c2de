"""scripts/extract_sketches.py: sketches of a folder of photos."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.sketch import sketch
from engine.grids import to_uint8
from scripts.extract_sketches import main


def photo(folder, name, side=(60, 40), seed=0):
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(40, 220, (side[1] // 10, side[0] // 10, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)
    return pixels


def test_sketches_of_a_folder_of_photos(tmp_path, capsys):
    pixels = photo(tmp_path / "in" / "sub", "a.png")
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no picture")
    main(["--in", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "broken.jpg" in said and "1 photos were left out" in said
    found = np.asarray(Image.open(tmp_path / "out" / "sub" / "a.png"))
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert found.shape == (40, 60) and np.array_equal(found, to_uint8(sketch(x))[0, 0])
    before = (tmp_path / "out" / "sub" / "a.png").read_bytes()
    main(["--in", str(tmp_path / "in"), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "sub" / "a.png").read_bytes() == before


def test_invalid_arguments_are_user_errors(tmp_path, capsys):
    for args, text in (
        (["--in", str(tmp_path / "no")], "does not exist"),
        (["--in", str(tmp_path)], "there are no photos"),
        (["--in", str(tmp_path), "--sigma", "3"], "--sigma"),
    ):
        with pytest.raises(SystemExit) as done:
            main([*args, "--out", str(tmp_path / "out")])
        assert done.value.code == 2 and text in capsys.readouterr().err
    photo(tmp_path / "two", "a.png")
    photo(tmp_path / "two", "a.bmp")
    with pytest.raises(SystemExit):
        main(["--in", str(tmp_path / "two"), "--out", str(tmp_path / "out")])
    assert "two photos have the same output file" in capsys.readouterr().err
