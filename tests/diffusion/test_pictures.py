"""A folder of pictures becomes captions and pixels of a few sizes; a file that is not a picture is named."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lokr_core import LoKrFileError, LoKrValueError
from lokr_core.demo import load_pictures, prompt_embedding
from lokr_core.diffusion import bucket_of, find_pictures


def test_pictures_have_their_captions_and_the_bucket_of_their_aspect(tmp_path):
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "b.png")
    Image.new("L", (16, 64), 0).save(tmp_path / "a.JPG")
    Image.new("RGBA", (32, 32), (0, 0, 255, 0)).save(tmp_path / "c.webp")
    (tmp_path / "b.txt").write_text(" a red wall\n")
    (tmp_path / "notes.md").write_text("not a picture")
    grey, red, clear = find_pictures(tmp_path, 64, "a picture")
    assert [picture.caption for picture in (grey, red, clear)] == ["a picture", "a red wall", "a picture"]
    assert [picture.bucket for picture in (grey, red, clear)] == [(80, 48), (48, 80), (64, 64)]
    assert [picture.original for picture in (grey, red, clear)] == [(64, 16), (20, 40), (32, 32)]
    assert grey.pixels().shape == (3, 80, 48) and grey.pixels().max() < -0.95, "a grey picture, black"
    assert torch.equal(red.pixels()[:, 8, 8], torch.tensor([1.0, -1.0, -1.0]))
    assert clear.pixels().min() > 0.95, "what is transparent is white"


def test_a_crop_is_told_as_sdxl_wants_it(tmp_path):
    """Scaled to cover 48 × 80, 100 × 200 is 48 × 96: 8 are cut at the left."""
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    assert find_pictures(tmp_path, 64)[0].ids == [100, 200, 0, 8, 48, 80]


def test_a_picture_is_turned_as_its_camera_was(tmp_path):
    picture = Image.new("RGB", (32, 16), "black")
    picture.paste("white", (0, 0, 16, 16))  # the left half
    exif = picture.getexif()
    exif[0x0112] = 6  # turned a quarter clockwise: the left is up
    picture.save(tmp_path / "a.png", exif=exif)
    found = find_pictures(tmp_path, 32)[0]
    assert found.original == (32, 16)
    assert found.pixels()[0, 0].mean() > 0.9 and found.pixels()[0, -1].mean() < -0.9


@given(st.integers(10, 5000), st.integers(10, 5000), st.sampled_from([16, 32, 64, 256, 512, 768, 1024]))
def test_a_bucket_has_about_the_area_and_the_aspect(height, width, size):
    tall, wide = bucket_of(height, width, size)
    step = 64 if size >= 512 else 16
    assert tall % step == wide % step == 0 and tall * wide <= size * size and max(tall, wide) <= 2 * min(tall, wide)
    if size >= 512:
        aspect = min(max(height / width, 0.5), 2)
        assert 0.8 * size * size <= tall * wide or (tall, wide) == (size, size)
        assert 0.8 < tall / wide / aspect < 1.25
    if height == width:
        assert tall == wide == size


def test_squares_for_the_examples(tmp_path):
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "a.png")
    pictures, captions = load_pictures(tmp_path, 16)
    assert pictures.shape == (1, 3, 16, 16) and captions == [""]


def test_bad_folders_and_files_are_named(tmp_path):
    with pytest.raises(LoKrFileError, match="No such folder"):
        find_pictures(tmp_path / "gone", 16)
    with pytest.raises(LoKrFileError, match="No pictures in this folder"):
        find_pictures(tmp_path, 16)
    with pytest.raises(LoKrValueError, match="multiple of 16"):
        find_pictures(tmp_path, 40)
    (tmp_path / "a.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(LoKrFileError, match="Not a readable picture") as error:
        find_pictures(tmp_path, 16)
    assert "a.png" in str(error.value)
    (tmp_path / "a.png").unlink()
    Image.effect_noise((64, 64), 60).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    picture = find_pictures(tmp_path, 16)[0]  # its size can be read
    with pytest.raises(LoKrFileError, match="Not a readable picture"):
        picture.pixels()


def test_a_prompt_is_the_same_numbers_wherever_it_is_made():
    one, other = prompt_embedding(["a red house", "a red door"], 16)
    assert torch.equal(one[:2], other[:2]) and not torch.equal(one[2], other[2])
    assert torch.equal(prompt_embedding(["A red  house"], 16)[0], one)
