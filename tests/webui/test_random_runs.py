"""Whatever ran before, a picture is the one of a server that has just started."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.webui.conftest import HIRES, Painter, SmallHost, apart

SEED, RUNS = 7, 60
# The runs that a server of their own is started for, as that takes a while: hires fix, two prompts, an interrupted one.
# FRESH_SERVERS=60 are all.
SHOWN = [15, 16, 49]
IN_TURN = sorted(range(RUNS), key=lambda number: (number not in SHOWN, number % 3))
FRESH = IN_TURN[: int(os.environ.get("FRESH_SERVERS", 3))]
# The runs that are made once more on a server that forgets its state before each. RESETS=60 are all.
RESET = IN_TURN[: int(os.environ.get("RESETS", 20))]
FILES = ("style", "whole", "unet only", "dora", "dora-in", "peft")
STRENGTHS = (0, 1, 0.7, -0.5, 0.3, "0.8:0.2", "0:0.9", "te=0.4")
OPTIONS = ("", "", "", ":mode=merge", ":start=0.5", ":end=0.4", ":blocks=IN=0.2,MID=0")


def matrix() -> dict:
    """The script that makes a batch for each part of the prompt behind a bar, with it and without."""
    at_start, other_seeds, margin = False, False, 0
    return {"script_name": "prompt matrix", "script_args": [at_start, other_seeds, "positive", "comma", margin]}


def random_runs(hires: Mapping[str, object]) -> Iterator[tuple[str, dict, bool]]:
    """(prompt, settings, whether it is interrupted) of runs with tags of every kind, or none."""
    choose = random.Random(SEED)
    for number in range(RUNS):

        def tags() -> str:
            tags = []
            for _ in range(choose.choice((0, 1, 1, 2, 3))):
                strength, option = choose.choice(STRENGTHS), choose.choice(OPTIONS)
                tags.append(f"<lokr:{choose.choice(FILES)}:{strength}{option}>")
            tags += [f"<lora:{choose.choice(('plain', 'style'))}:{choose.choice((0.5, 1))}>"] * choose.choice((0, 0, 1))
            return " ".join(choose.sample(tags, len(tags)))

        prompt = f"a {choose.choice(('pier', 'tower', 'house'))} {tags()}"
        kind = choose.choice(("plain", "plain", "plain", "hires", "matrix", "batch"))
        settings = {"steps": choose.choice((2, 3)), "sampler_name": choose.choice(("Euler", "DPM++ 2M", "DDIM"))}
        interrupted = number % 10 == 9
        if interrupted:
            settings["steps"] = 3  # of two, DDIM makes one, after which there is nothing to interrupt
            kind = "batch" if kind == "matrix" else kind  # that script fails without all of its pictures
        if kind == "hires":
            settings |= hires | {"hr_prompt": choose.choice(("", f"a castle {tags()}"))}
        elif kind == "matrix":
            prompt, settings = f"{prompt}|{tags() or 'red'}", settings | matrix()
        elif kind == "batch":
            settings |= {"batch_size": 2, "n_iter": 2}
        yield prompt, settings, interrupted


def paint(painter: Painter, prompt: str, settings: dict, interrupted: bool) -> np.ndarray:
    """All that the run makes, grids of pictures too, as one row of numbers."""
    if interrupted:  # in its first step
        painter.server.get("/probe/interrupt")
    pictures = painter.pictures(prompt, **settings)
    assert painter.server.get("/probe/interrupted")
    return np.concatenate([picture.ravel() for picture in pictures])


@pytest.fixture(
    scope="module",
    params=["a1111", "forge", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("forge_neo", "reforge"))],
)
def small_host(request: pytest.FixtureRequest) -> SmallHost:
    return request.getfixturevalue(f"small_{request.param}")


@pytest.fixture(scope="module")
def runs(small_host: SmallHost) -> list[tuple[str, dict, bool]]:
    return list(random_runs(small_host.hires))


@pytest.fixture(scope="module")
def painter(small_host: SmallHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Painter]:
    with small_host.painter(tmp_path_factory.mktemp("in a row")) as painter:
        yield painter


@pytest.fixture(scope="module")
def in_a_row(painter: Painter, runs: list) -> list:
    """The pictures of all the runs in a row, then the state after a last one without tags."""
    painter("a pier")
    weights = painter.server.get("/probe/weights")
    pictures = [paint(painter, *run) for run in runs]
    painter("a pier")
    assert painter.server.get("/probe/hooks") == 0
    painter.server.get("/probe/reset")  # A1111's own updates stay until a layer runs without them
    assert painter.server.get("/probe/weights") == weights
    return pictures


def test_each_picture_of_many_runs_is_that_of_the_server_after_a_reset(painter: Painter, runs: list, in_a_row: list):
    for number in RESET:
        painter.server.get("/probe/reset")
        assert apart(paint(painter, *runs[number]), in_a_row[number]) == 0, (number, runs[number])


@pytest.mark.parametrize("number", FRESH)
def test_and_that_of_a_server_that_has_just_started(
    small_host: SmallHost, tmp_path: Path, runs: list, in_a_row: list, number: int
):
    with small_host.painter(tmp_path / "data") as fresh:
        assert apart(paint(fresh, *runs[number]), in_a_row[number]) == 0, runs[number]


@pytest.mark.parametrize("flag", ["--medvram", "--lowvram"])
def test_with_little_memory(small_a1111: SmallHost, tmp_path: Path, flag: str):
    """The host moves modules between devices while they run, and encodes the prompt of hires fix before."""
    with small_a1111.painter(tmp_path / "data", flag) as painter:
        clean = painter("a pier")
        for tag in ("style:0.7", "style:0.4:mode=merge"):
            ours = painter(f"a pier <lokr:{tag}>")
            assert apart(ours, painter(f"a pier <lora:{tag.removesuffix(':mode=merge')}>")) <= 1
        hires = painter("a pier <lokr:style:0.7>", hr_prompt="a pier <lokr:whole:0.8>", **HIRES)
        theirs = painter("a pier <lora:style:0.7>", hr_prompt="a pier <lora:whole:0.8>", **HIRES)
        assert apart(hires, theirs) <= 1
        assert apart(painter("a pier"), clean) == 0
        assert painter.server.get("/probe/hooks") == 0
