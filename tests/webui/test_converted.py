"""A converted file in A1111's and Forge's own ``<lora:…>``: where it is exact, the picture is the LoKr's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lokr_core.conversion import Keep
from lokr_core.tools import Conversion, convert_file
from tests.webui.conftest import Painter, SmallHost, apart
from tests.webui.test_pictures import LOOKS_OTHER


@pytest.fixture(scope="module")
def either(small_host: SmallHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Painter]:
    with small_host.painter(tmp_path_factory.mktemp("converted")) as painter:
        painter("a pier")  # A1111's own `<lora:…>` acts in part while the model is still being loaded
        yield painter


@pytest.mark.parametrize(
    "name, to, keep", [("style", "lora", Keep(error=0)), ("whole", "full", Keep()), ("whole", "lora", Keep(error=0))]
)
def test_the_hosts_own_lora_makes_the_lokrs_picture_of_it(either: Painter, name: str, to: str, keep: Keep):
    folder = either.server.base / "models/Lora"
    found = convert_file(
        folder / f"{name}.safetensors", folder / f"{name} {to}.safetensors", Conversion(to, "kohya", keep)
    )
    assert found.energy == pytest.approx(1, abs=1e-9) and not found.left_out
    theirs = either(f"a lighthouse <lora:{name} {to}:0.7>")
    assert apart(theirs, either(f"a lighthouse <lokr:{name}:0.7>")) <= 1
    assert apart(theirs, either("a lighthouse")) > LOOKS_OTHER
