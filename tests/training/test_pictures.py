"""A folder of pictures becomes tensors and captions; a file that is not a picture is named."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from lokr_core import LoKrFileError
from lokr_core.training import load_pictures, prompt_embedding


def test_pictures_are_squares_by_name_with_their_captions(tmp_path):
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "b.png")
    Image.new("L", (16, 64), 0).save(tmp_path / "a.JPG")
    Image.new("RGBA", (32, 32), (0, 0, 255, 0)).save(tmp_path / "c.webp")
    (tmp_path / "b.txt").write_text(" a red wall\n")
    (tmp_path / "notes.md").write_text("not a picture")
    pictures, captions = load_pictures(tmp_path, 16)
    assert pictures.shape == (3, 3, 16, 16) and captions == ["", "a red wall", ""]
    assert pictures[0].max() < -0.95, "a grey picture, black"
    assert torch.equal(pictures[1][:, 8, 8], torch.tensor([1.0, -1.0, -1.0]))
    assert pictures[2].min() > 0.95, "what is transparent is white"


def test_a_picture_is_turned_as_its_camera_was(tmp_path):
    picture = Image.new("RGB", (20, 20), "black")
    picture.paste("white", (0, 0, 20, 10))  # the upper half
    exif = picture.getexif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "a.png", exif=exif)
    found = load_pictures(tmp_path, 20)[0][0, 0]
    assert found[0].mean() < -0.9 and found[-1].mean() > 0.9


def test_bad_folders_and_files_are_named(tmp_path):
    with pytest.raises(LoKrFileError, match="No such folder"):
        load_pictures(tmp_path / "gone", 16)
    with pytest.raises(LoKrFileError, match="No pictures in this folder"):
        load_pictures(tmp_path, 16)
    (tmp_path / "a.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(LoKrFileError, match="Not a readable picture") as error:
        load_pictures(tmp_path, 16)
    assert "a.png" in str(error.value)


def test_a_prompt_is_the_same_numbers_wherever_it_is_made():
    one, other = prompt_embedding(["a red house", "a red door"], 16)
    assert torch.equal(one[:2], other[:2]) and not torch.equal(one[2], other[2])
    assert torch.equal(prompt_embedding(["A red  house"], 16)[0], one)
