"""A1111's and Forge's door: registers what is in ``webui/``, and holds nothing else."""

import importlib
import importlib.util
import sys
from pathlib import Path

from modules import extra_networks, script_callbacks

# Here ``webui`` is the host's own module, so our folder of that name goes by another.
_NAME = "lokr_webui"
if _NAME not in sys.modules:
    _folder = Path(__file__).resolve().parent.parent / "webui"
    _spec = importlib.util.spec_from_file_location(
        _NAME, _folder / "__init__.py", submodule_search_locations=[str(_folder)]
    )
    sys.modules[_NAME] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_NAME])

_host, _network, infotext, library, page, panel, routes, settings = (
    importlib.import_module(f"{_NAME}.{name}")
    for name in ("host", "network", "infotext", "library", "page", "panel", "routes", "settings")
)

LoKrPanel = panel.LoKrPanel  # the host finds scripts in this namespace

network = _network.register(
    _network.LoKrNetwork(_host.current_host(), library.find, settings.default_mode, infotext.write)
)


def before_ui():
    extra_networks.register_extra_network(network)
    page.register()


settings.register()
infotext.register()
routes.register()
script_callbacks.on_before_ui(before_ui)
script_callbacks.on_cfg_denoiser(network.step)
script_callbacks.on_model_loaded(network.model_loaded)
script_callbacks.on_script_unloaded(network.close)
network.host.watch(network)
