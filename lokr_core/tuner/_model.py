"""``LoKrModel``: a model with LoKr adapters in its layers; PEFT's ``LoKrModel`` and ``PeftModel`` in one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from ..adapter import Adapter
from ..errors import LoKrValueError
from ..peft import LoKrConfig
from . import _all_layers as all_layers
from ._export import check_described, read_weights, save_folder, to_adapter
from ._inject import inject
from ._layer import LoKrLayer
from ._target_modules import matching_modules


class LoKrModel(nn.Module):
    """Wraps layers of ``model`` in place and freezes all else; calls and attributes are passed on to ``model``.

    low_cpu_mem_usage: create the adapter's parameters on the meta device, for values that are loaded later
    autocast_adapter_dtype: as for ``get_lokr_model``; by default the base's dtype, as in PEFT's ``LoKrModel``
    state_dict: the values, by PEFT's keys, read from ``file``

    >>> import torch
    >>> base = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    >>> model = LoKrModel(base, LoKrConfig(r=2, target_modules=["0"]), "default")
    >>> model(torch.zeros(1, 8)).shape
    torch.Size([1, 4])

    Raises, with the model unchanged: LoKrMatchError, with similar names, if ``target_modules`` names no module,
    TypeError for a module of a kind that cannot have an adapter, LoKrValueError for a name that is taken.
    """

    prefix = "lokr_"
    tuner_layer_cls = LoKrLayer

    def __init__(
        self,
        model: nn.Module,
        peft_config: LoKrConfig | Mapping[str, LoKrConfig],
        adapter_name: str = "default",
        low_cpu_mem_usage: bool = False,
        *,
        autocast_adapter_dtype: bool = False,
        state_dict: Mapping[str, Tensor] | None = None,
        file: object = None,
    ):
        super().__init__()
        config = peft_config if isinstance(peft_config, LoKrConfig) else peft_config[adapter_name]
        self.model = model
        self.peft_config: dict[str, LoKrConfig] = {}
        self.targeted_module_names: list[str] = []
        how = dict(tensors=state_dict, file=file, fp32=autocast_adapter_dtype, on_meta=low_cpu_mem_usage)
        self._inject(adapter_name, config, **how)
        self.set_adapter(adapter_name, inference_mode=config.inference_mode)

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":  # not set yet
                raise
            return getattr(self.model, name)

    @property
    def base_model(self) -> LoKrModel:
        """This model itself, as PEFT's ``PeftModel.base_model``."""
        return self

    def get_base_model(self) -> nn.Module:
        """The wrapped model, with the adapters in its layers."""
        return self.model

    def _inject(self, name: str, config: LoKrConfig, **how) -> None:
        biased = [other for other, each in self.peft_config.items() if each.bias != "none"]
        if config.bias != "none" and biased:
            raise LoKrValueError("Only one adapter of a model can train biases", found=f"{biased[0]!r} and {name!r}")
        modules = matching_modules(self.model, config)
        inject(self.model, name, config, modules, **how)
        self.peft_config[name] = config
        self.targeted_module_names += [path for path in modules if path not in self.targeted_module_names]

    def add_adapter(
        self,
        adapter_name: str,
        peft_config: LoKrConfig,
        low_cpu_mem_usage: bool = False,
        autocast_adapter_dtype: bool = True,
    ) -> None:
        """Add an adapter, which ``set_adapter`` activates. Raises as the constructor does."""
        self._inject(adapter_name, peft_config, fp32=autocast_adapter_dtype, on_meta=low_cpu_mem_usage)
        self._refresh()

    def _refresh(self) -> None:
        """Activate the model's active adapters in all layers, new ones too, without training more parameters."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.set_adapter(self._active)
        all_layers.freeze_all_but(self.model, trained)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter; if none is active then, activate the first. LoKrValueError if it is unknown or merged."""
        self._check_known([adapter_name])
        if any(adapter_name in layer.merged_adapters for layer in all_layers.lokr_layers(self.model)):
            raise LoKrValueError(f"The adapter {adapter_name!r} is merged", hint="call unmerge_adapter() first")
        for module in all_layers.wrappers(self.model):
            module.delete_adapter(adapter_name)
        del self.peft_config[adapter_name]
        active = [name for name in self._active if name != adapter_name]
        if not active and self.peft_config:
            active = [next(iter(self.peft_config))]
            warnings.warn(f"The active adapter was deleted; {active[0]!r} is active now", stacklevel=2)
        self.set_adapter(active)

    def _check_known(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self.peft_config]
        if unknown:
            raise LoKrValueError(f"There is no adapter {unknown[0]!r}", expected=f"one of {list(self.peft_config)}")

    @property
    def active_adapters(self) -> list[str]:
        return list(self._active)

    @property
    def active_adapter(self) -> str | list[str]:
        """The active adapter's name, or a list of names if there are several."""
        return self._active[0] if len(self._active) == 1 else list(self._active)

    def set_adapter(self, adapter_name: str | Sequence[str], inference_mode: bool = False) -> None:
        """Use the sum of these adapters, and train them unless in inference mode. LoKrValueError if one is unknown."""
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        self._check_known(names)
        for module in all_layers.wrappers(self.model):
            module.set_adapter(names, inference_mode)
        self._active = names
        if not inference_mode:
            for name in names:
                for bias in all_layers.base_biases(self.model, name, self.peft_config[name]).values():
                    bias.requires_grad_(True)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        """Whether these adapters' factors are trained."""
        for layer in all_layers.lokr_layers(self.model):
            layer.set_requires_grad(adapter_names, requires_grad)

    def enable_adapter_layers(self) -> None:
        """Use and train the active adapters again, after ``disable_adapter_layers``."""
        for module in all_layers.wrappers(self.model):
            module.enable_adapters(True)

    def disable_adapter_layers(self) -> None:
        """Use the base model alone; biases that were trained stay in it."""
        for name in self._active:
            if self.peft_config[name].bias != "none":
                warnings.warn(f"{name!r} has trained biases of the base model: they stay", stacklevel=2)
        for module in all_layers.wrappers(self.model):
            module.enable_adapters(False)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """``with model.disable_adapter():`` use the base model alone; afterwards, restore the former state."""
        with all_layers.restored(self.model):
            self.disable_adapter_layers()
            yield

    def merge_adapter(self, adapter_names: Sequence[str] | None = None, safe_merge: bool = False) -> None:
        """Add adapters (by default the active ones) to the weights, of which a backup is kept. If a layer raises, all
        weights are restored; with ``safe_merge`` it raises if a merged number is not finite."""
        all_layers.merge_layers(self.model, adapter_names, safe_merge)

    def unmerge_adapter(self) -> None:
        """Restore every weight, bit for bit, as before the first merge."""
        for layer in all_layers.lokr_layers(self.model):
            layer.unmerge()

    def merge_and_unload(
        self,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: Sequence[str] | None = None,
        progress: bool = False,
    ) -> nn.Module:
        """The base model with the adapters merged into its weights and their layers replaced by the base's.

        ``progressbar`` or ``progress`` shows a bar on a terminal. ``safe_merge`` merges and checks every layer before
        the first is replaced, which takes more memory.
        """
        if safe_merge:
            self.merge_adapter(adapter_names, safe_merge=True)
        names = self._active if adapter_names is None else adapter_names
        return all_layers.take_out(self.model, names, progressbar or progress)

    def unload(self) -> nn.Module:
        """The base model with the adapters' layers replaced by the base's; what is merged stays merged."""
        return all_layers.take_out(self.model, None)

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """(trainable parameters, all parameters)."""
        parameters = list(self.parameters())
        return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)

    def print_trainable_parameters(self) -> None:
        """Print both numbers and their ratio."""
        trainable, total = self.get_nb_trainable_parameters()
        percent = 100 * trainable / total
        print(f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {percent:.4f}")

    def adapter_state_dict(self, adapter_name: str = "default") -> dict[str, Tensor]:
        """An adapter's tensors by PEFT's keys. If they are sharded they are gathered, and every process has to call."""
        self._check_known([adapter_name])
        return all_layers.gathered(
            all_layers.adapter_parameters(self.model, adapter_name, self.peft_config[adapter_name])
        )

    def to_adapter(self, adapter_name: str | None = None) -> Adapter:
        """An adapter (by default the active one) as an ``Adapter``; its tensors are the parameters, detached.

        If they are sharded, every process has to call. Raises LoKrValueError if modules or biases are trained whole.
        """
        name = self._active[0] if adapter_name is None else adapter_name
        return to_adapter(self.model, name, self.adapter_state_dict(name))

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        safe_serialization: bool = True,
        selected_adapters: Sequence[str] | None = None,
        is_main_process: bool = True,
    ) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors`` for PEFT's ``PeftModel``.

        As in PEFT, the adapter "default" goes into the folder itself, others into folders of their names. If parameters
        are sharded, every process has to call; the main one writes. LoKrValueError if ``safe_serialization`` is false.
        """
        if not safe_serialization:
            raise LoKrValueError("Adapters are saved as safetensors only", found="safe_serialization=False")
        names = list(self.peft_config if selected_adapters is None else selected_adapters)
        self._check_known(names)
        for name in names:
            config = self.peft_config[name]
            check_described(self.model, name, config)
            tensors = self.adapter_state_dict(name)
            if is_main_process:
                folder = "" if name == "default" else name
                save_folder(self.model, name, config, tensors, Path(save_directory) / folder)

    def load_adapter(
        self,
        model_id: str | os.PathLike,
        adapter_name: str,
        is_trainable: bool = False,
        subfolder: str | None = None,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = True,
    ) -> _IncompatibleKeys:
        """Add the adapter of a folder, PEFT's or ours, which ``set_adapter`` activates.

        The model is in eval mode afterwards unless ``is_trainable``; ``low_cpu_mem_usage`` has no effect. Returns the
        missing and the unexpected keys, always empty. Raises, with the model unchanged, LoKrFileError for the folder
        and LoKrMatchError for an adapter of another architecture.
        """
        folder = Path(model_id) / (subfolder or "")
        config = LoKrConfig.from_pretrained(folder, inference_mode=not is_trainable)
        self._inject(adapter_name, config, tensors=read_weights(folder), file=folder, fp32=autocast_adapter_dtype)
        self._refresh()
        if not is_trainable:
            self.eval()
        return _IncompatibleKeys([], [])

    @classmethod
    def from_pretrained(
        cls,
        model: nn.Module,
        model_id: str | os.PathLike,
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: LoKrConfig | None = None,
        subfolder: str | None = None,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = True,
    ) -> LoKrModel:
        """``model`` with the adapter of a folder, PEFT's or ours.

        ``is_trainable``: continue the training; ``config``: in place of the folder's. Raises as ``load_adapter`` does.
        """
        folder = Path(model_id) / (subfolder or "")
        config = config or LoKrConfig.from_pretrained(folder)
        config.inference_mode = not is_trainable
        how: dict = dict(state_dict=read_weights(folder), file=folder, autocast_adapter_dtype=autocast_adapter_dtype)
        loaded = cls(model, config, adapter_name, **how)
        return loaded if is_trainable else loaded.eval()
