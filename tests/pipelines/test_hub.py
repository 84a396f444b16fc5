"""A LoKr in a repository of the Hugging Face hub: from its cache, or downloaded; the hub itself is a stand-in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import lokr_core
from lokr_core import LoKrFileError

diffusers = pytest.importorskip("diffusers", reason="diffusers' pipelines are what is tested here")
hub = pytest.importorskip("huggingface_hub", reason="the hub's client is what is tested here")

from tests.pipelines import lokr_files  # noqa: E402
from tests.pipelines.tiny import build, difference, outputs  # noqa: E402

NAME, REPOSITORY, COMMIT = "Flux.1", "someone/styles", "0" * 40


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(file, what a pipeline with it puts out)"""
    file, pipe = tmp_path_factory.mktemp("files") / "a.safetensors", build(NAME)
    lokr_files.apply(pipe, lokr_files.write(NAME, "diffusers", pipe, file))
    return file, outputs(NAME, pipe)


def stored(folder: Path, made, *names: str) -> Path:
    """A repository's files in a cache of the hub's client."""
    repository = folder / f"models--{REPOSITORY.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for name in names:
        path = repository / "snapshots" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made[0], path)
    return repository / "snapshots" / COMMIT


@pytest.mark.parametrize(
    "names, chosen",
    [
        (["style.safetensors"], {}),
        (["pytorch_lora_weights.safetensors", "other.safetensors"], {}),
        (["one.safetensors", "two.safetensors"], {"weight_name": "two.safetensors"}),
        (["deep/er/one.safetensors"], {"subfolder": "deep/er"}),
        (["deep/one.safetensors", "deep/two.safetensors"], {"subfolder": "deep", "weight_name": "one.safetensors"}),
    ],
)
def test_a_repository_in_the_cache_is_read_without_a_network(names, chosen, made, tmp_path):
    stored(tmp_path, made, *names)
    pipe = build(NAME)
    adapters = lokr_core.load_lokr_weights(
        pipe, REPOSITORY, adapter_name="a", cache_dir=tmp_path, local_files_only=True, **chosen
    )
    assert adapters.reports["a"].complete
    assert difference(outputs(NAME, pipe), made[1]) <= 1e-5


@pytest.fixture
def online(monkeypatch, tmp_path, made):
    """A hub that holds what the list says, and writes down what it is asked for."""
    files, asked = [], []

    def listed(repository, **options):
        asked.append(("list", repository, options))
        return files

    def snapshot(repository, *, allow_patterns, **options):
        asked.append(("download", repository, options, allow_patterns))
        return str(stored(tmp_path / "hub", made, *(name for name in files if name in allow_patterns)))

    monkeypatch.setattr(hub, "list_repo_files", listed)
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    return files, asked


def test_the_one_file_of_a_repository_is_downloaded_and_no_other(online, made):
    files, asked = online
    files += ["README.md", "style.safetensors", "unet/diffusion_pytorch_model.safetensors"]
    pipe = build(NAME)
    lokr_core.load_lokr_weights(pipe, REPOSITORY, revision="v2", token="t")
    assert difference(outputs(NAME, pipe), made[1]) <= 1e-5
    options = {"revision": "v2", "token": "t"}
    assert asked == [
        ("list", REPOSITORY, options),
        ("download", REPOSITORY, options, ["style.safetensors", "adapter_config.json"]),
    ]


def test_a_named_file_is_not_looked_for(online):
    files, asked = online
    files += ["in/a.safetensors", "in/b.safetensors"]
    lokr_core.load_lokr_weights(build(NAME), REPOSITORY, weight_name="b.safetensors", subfolder="in")
    assert asked == [("download", REPOSITORY, {}, ["in/b.safetensors", "in/adapter_config.json"])]


@pytest.mark.parametrize(
    "held, told",
    [
        (["a.safetensors", "b.safetensors"], "several files.*a.safetensors, b.safetensors"),
        (["model.bin", "deep/a.safetensors"], "no .safetensors file.*2 other files"),
    ],
)
def test_several_files_or_none_are_told_before_anything_is_downloaded(online, held, told):
    files, asked = online
    files += held
    with pytest.raises(LoKrFileError, match=f"(?s){told}"):
        lokr_core.load_lokr_weights(build(NAME), REPOSITORY)
    assert [kind for kind, *_ in asked] == ["list"]


def test_an_unknown_repository_is_told_with_the_hubs_own_reason(monkeypatch):
    def fails(*_, **__):
        raise OSError("404: no such repository")

    monkeypatch.setattr(hub, "list_repo_files", fails)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(LoKrFileError, match="(?s)no such repository.*OWNER/NAME"):
        lokr_core.load_lokr_weights(build(NAME), "someone/nothing")


def test_a_folder_here_comes_before_a_repository_of_that_name(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(REPOSITORY).mkdir(parents=True)
    shutil.copy(made[0], Path(REPOSITORY, "style.safetensors"))
    assert lokr_core.load_lokr_weights(build(NAME), REPOSITORY).get_active_adapters() == ["default_0"]
