"""``modules_to_save``: modules that are trained whole beside the adapters."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import LoKrValueError


class ModulesToSaveWrapper(nn.Module):
    """Wraps a module of the model; each adapter trains a copy of it, and the original stays as it is.

    Attributes are PEFT's (``utils/other.py``), so that the keys of the state dict are too.
    """

    def __init__(self, original_module: nn.Module, adapter_name: str):
        super().__init__()
        self.original_module = original_module
        self.modules_to_save = nn.ModuleDict()
        self._active: str | None = None
        self.disable_adapters = False
        self.update(adapter_name)

    def update(self, adapter_name: str) -> None:
        """Add a copy for an adapter."""
        self.modules_to_save[adapter_name] = copy.deepcopy(self.original_module)
        self.original_module.requires_grad_(False)

    def __contains__(self, adapter_name: str) -> bool:
        return adapter_name in self.modules_to_save

    def adapter_tensors(self, adapter_name: str) -> dict[str, Tensor]:
        """The parameters and buffers of an adapter's copy, by name."""
        return self.modules_to_save[adapter_name].state_dict(keep_vars=True)

    def set_adapter(self, adapter_names: Sequence[str], inference_mode: bool = False) -> None:
        """Use the copy of these adapters. Raises LoKrValueError if several have one."""
        present = [name for name in adapter_names if name in self.modules_to_save]
        if len(present) > 1:
            raise LoKrValueError("Several active adapters train the same module whole", found=", ".join(present))
        self._active = present[0] if present else None
        for name, module in self.modules_to_save.items():
            module.requires_grad_(name == self._active and not inference_mode)

    def enable_adapters(self, enabled: bool) -> None:
        """Use the active adapter's copy, or, if not ``enabled``, the original."""
        self.disable_adapters = not enabled
        for name, module in self.modules_to_save.items():
            module.requires_grad_(enabled and name == self._active)

    def delete_adapter(self, adapter_name: str) -> None:
        if adapter_name in self.modules_to_save:
            del self.modules_to_save[adapter_name]
        if self._active == adapter_name:
            self._active = None

    @property
    def current(self) -> nn.Module:
        """The module that ``forward`` uses."""
        if self.disable_adapters or self._active is None:
            return self.original_module
        return self.modules_to_save[self._active]

    def forward(self, *args, **kwargs):
        return self.current(*args, **kwargs)

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("original_module", "modules_to_save"):
                raise
            return getattr(self.current, name)
