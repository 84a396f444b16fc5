"""Which files a prompt can name, and by which names."""

from __future__ import annotations

import importlib
import os
import shutil
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.webui import host_modules
from tests.webui.adapters import attention, lokr, lora, save

LAYERS = {"unet": attention("down_blocks.1.attentions.0", 64, 768)}  # 10 of them


def write_lokr(path: Path, metadata: Mapping[str, str] | None = None, seed: int = 0) -> Path:
    return save(lokr(LAYERS, seed=seed), path, **(metadata or {}))


def write_lora(path: Path) -> Path:
    return save(lora(LAYERS), path)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, models: Path):
    return host_modules.install(monkeypatch, models)


@pytest.fixture
def library(host):
    return importlib.import_module("webui.library")


def names(library) -> list[str]:
    return [entry.name for entry in library.entries()]


def test_lokr_files_of_the_three_folders_and_below_them_the_lokr_folder_first(library, models: Path):
    write_lokr(models / "Lora" / "a" / "b" / "deep.safetensors", seed=1)
    write_lokr(models / "LyCORIS" / "lyco.safetensors", seed=2)
    write_lokr(models / "LoKr" / "own.SAFETENSORS", seed=3)
    write_lora(models / "Lora" / "lora.safetensors")
    (models / "Lora" / "notes.txt").write_text("no adapter")
    assert names(library) == ["own", "deep", "lyco"]


def test_folders_of_the_command_line_and_of_the_settings(library, host, models: Path, tmp_path: Path):
    from modules import shared

    write_lokr(tmp_path / "mine" / "mine.safetensors", seed=1)
    write_lokr(tmp_path / "more" / "more.safetensors", seed=2)
    write_lokr(models / "LoKr" / "not now.safetensors", seed=3)
    shared.cmd_opts.lokr_dir = str(tmp_path / "mine")
    host.lokr_folders = f"\n  {tmp_path / 'more'} \n/no/such/folder\n"
    assert names(library) == ["mine", "more"]


def test_a_file_is_called_by_its_name_or_its_alias_as_the_hosts_setting_says(library, host, models: Path):
    write_lokr(models / "LoKr" / "v2-000010.safetensors", {"ss_output_name": "Ink Drawing"})
    (entry,) = library.entries()
    assert (entry.name, entry.alias, entry.tag_name) == ("v2-000010", "Ink Drawing", "Ink Drawing")
    for said in ("v2-000010", "Ink Drawing", "ink drawing", " V2-000010", "v2-000010.safetensors"):
        assert library.find(said) == entry
    host.lora_preferred_name = "Filename"
    assert entry.tag_name == "v2-000010"


def test_an_alias_that_several_files_have_is_no_name(library, models: Path):
    """As with the host's: a trainer writes one output name into every epoch's file."""
    for epoch in (1, 2):
        write_lokr(models / "LoKr" / f"run-{epoch}.safetensors", {"ss_output_name": "run"}, seed=epoch)
    assert [entry.tag_name for entry in library.entries()] == ["run-1", "run-2"]
    with pytest.raises(library.UnknownName, match="Several LoKr files have this name") as error:
        library.find("run")
    assert error.value.near == ["run-1", "run-2"]


def test_a_files_name_comes_before_anothers_alias(library, models: Path):
    write_lokr(models / "LoKr" / "a.safetensors", {"ss_output_name": "b"}, seed=1)
    write_lokr(models / "LoKr" / "b.safetensors", seed=2)
    assert library.find("b").path.name == "b.safetensors"
    assert library.find("a").tag_name == "a"


def test_files_of_one_name_are_told_apart_by_their_hash(library, models: Path):
    write_lokr(models / "LoKr" / "style.safetensors", seed=1)
    write_lokr(models / "Lora" / "style.safetensors", seed=2)
    first, second = library.entries()
    assert first.name == f"style({first.hash[:12]})" != second.name == f"style({second.hash[:12]})"
    assert library.find(second.name) == second
    assert library.find(f"style ({first.hash[:10].upper()})") == first
    with pytest.raises(library.UnknownName, match="Several LoKr files have this name") as error:
        library.find("style")
    assert error.value.near == sorted([first.name, second.name])


def test_names_stay_apart_where_the_user_has_switched_hashing_off(library, models: Path):
    from modules import shared

    shared.cmd_opts.no_hashing = True
    write_lokr(models / "LoKr" / "style.safetensors", seed=1)
    write_lokr(models / "Lora" / "style.safetensors", seed=2)
    first, second = library.entries()
    assert first.name != second.name and not first.hash


def test_a_file_that_lies_there_twice_is_one(library, models: Path):
    path = write_lokr(models / "LoKr" / "style.safetensors")
    (models / "LyCORIS").mkdir()
    shutil.copy(path, models / "LyCORIS")
    (entry,) = library.entries()
    assert library.find(entry.name).path == path


@pytest.mark.parametrize("name", ["two words", "a [v2] (final)", "été", "水彩", 'it\'s, "so" & <!', "a:b=c", "..."])
def test_names_that_people_give(library, models: Path, name: str):
    write_lokr(models / "LoKr" / f"{name}.safetensors")
    (entry,) = library.entries()
    assert not set(entry.tag_name) & set("<>:=")
    assert library.find(entry.tag_name) == entry
    assert library.find(unicodedata.normalize("NFD", entry.tag_name)) == entry


def test_an_alias_that_a_tag_cannot_say_is_no_name(library, models: Path):
    write_lokr(models / "LoKr" / "style.safetensors", {"ss_output_name": "a:b>"})
    assert library.entries()[0].tag_name == "style"


def test_an_unknown_name_names_near_ones(library, models: Path):
    for name in ("ink_drawing", "ink-drawing-xl", "watercolour"):
        write_lokr(models / "LoKr" / f"{name}.safetensors")
    with pytest.raises(library.UnknownName) as error:
        library.find("ink drawin")
    assert error.value.near == ["ink_drawing", "ink-drawing-xl"]
    assert "ink_drawing" in str(error.value)


@pytest.mark.parametrize("name", ["../secret", "/{outside}/secret", "LoKr/../../secret", "..\\secret", "a\0b", "", "."])
def test_no_name_leads_out_of_the_folders(library, models: Path, tmp_path: Path, name: str):
    write_lokr(tmp_path / "secret.safetensors")
    write_lokr(models / "LoKr" / "style.safetensors")
    with pytest.raises(library.UnknownName):
        library.find(name.format(outside=tmp_path))


def test_links_within_a_folder_are_not_followed_and_said_to_be(library, models: Path, tmp_path: Path, capsys):
    secret = write_lokr(tmp_path / "elsewhere" / "secret.safetensors")
    write_lokr(models / "LoKr" / "style.safetensors")
    (models / "LoKr" / "linked.safetensors").symlink_to(secret)
    (models / "LoKr" / "folder").symlink_to(secret.parent)
    assert names(library) == ["style"]
    told = capsys.readouterr().err
    assert "linked.safetensors is a link" in told and "folder is a link" in told


def test_a_model_folder_may_be_a_link_itself(library, models: Path, tmp_path: Path):
    path = write_lokr(tmp_path / "big disk" / "style.safetensors")
    models.mkdir()
    (models / "LoKr").symlink_to(path.parent)
    (models / "Lora").symlink_to(path.parent)
    (entry,) = library.entries()
    assert entry.name == "style" and library.folder_of(entry.path) == models / "LoKr"


def test_a_lora_is_found_for_what_it_is_unless_a_lokr_has_its_name(library, models: Path):
    write_lora(models / "Lora" / "style.safetensors")
    assert not library.find("style").is_lokr
    lokr = write_lokr(models / "LoKr" / "style.safetensors")
    library.refresh()
    assert library.find("style").path == lokr


def test_a_broken_file_has_no_card_and_is_found(library, models: Path, capsys):
    path = write_lokr(models / "LoKr" / "broken.safetensors")
    path.write_bytes(path.read_bytes()[:3000])
    assert names(library) == []
    assert library.find("broken").path == path
    assert [(entry.name, "truncated" in entry.problem) for entry in library.broken()] == [("broken", True)]
    assert "truncated" in capsys.readouterr().err


def test_new_files_are_found_and_removed_ones_are_not_without_a_refresh(library, models: Path):
    path = write_lokr(models / "LoKr" / "style.safetensors")
    assert library.find("style").path == path
    new = write_lokr(models / "LoKr" / "new.safetensors")
    assert library.find("new").path == new
    path.unlink()
    with pytest.raises(library.UnknownName):
        library.find("style")


def test_a_file_that_was_replaced_is_another_even_with_an_older_date(library, models: Path):
    path = write_lokr(models / "LoKr" / "style.safetensors", {"ss_output_name": "old"}, seed=1)
    before = library.find("style")
    hash_before = before.hash
    write_lokr(path, {"ss_output_name": "new"}, seed=2)
    os.utime(path, ns=(before.version[0] - 10**9,) * 2)
    after = library.find("style")
    assert (before.alias, after.alias) == ("old", "new")
    assert after.version != before.version and after.hash != hash_before


def test_the_outline_says_what_the_file_is_for(library, models: Path):
    write_lokr(models / "LoKr" / "style.safetensors", {"modelspec.trigger_phrase": "ink, drawing"})
    outline = library.entries()[0].outline
    assert (outline.base_model, outline.modules) == ("Stable Diffusion 1.x", 10)
    assert outline.trigger_words == ["ink", "drawing"]


def test_a_file_is_found_by_its_hash_whatever_it_is_called(library, models: Path):
    write_lokr(models / "LoKr" / "a.safetensors", seed=1)
    write_lokr(models / "LoKr" / "b.safetensors", seed=2)
    _, b = library.entries()
    assert library.find_hashed(b.shorthash) == b
    assert library.find_hashed("0" * 12) is None
