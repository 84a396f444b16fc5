"""``LoKrModel``: a model with LoKr adapters in its layers; PEFT's ``LoKrModel`` and ``PeftModel`` in one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from .._files import save_tensors
from ..adapter import Adapter
from ..display import progress_bar
from ..errors import LoKrValueError
from ..peft import LoKrConfig
from ._export import check_described, to_adapter
from ._folder import WEIGHTS_NAME, adapter_parameters, read_weights
from ._inject import inject, replace_module
from ._layer import LoKrLayer
from ._modules_to_save import ModulesToSaveWrapper
from ._shapes import WHOLE
from ._target_modules import resolve_targets

# Heads that PEFT trains whole for these tasks (``peft_model.py``).
_HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}


def get_lokr_model(
    model: nn.Module,
    peft_config: LoKrConfig,
    adapter_name: str = "default",
    autocast_adapter_dtype: bool = True,
    low_cpu_mem_usage: bool = False,
) -> LoKrModel:
    """``model`` with LoKr adapters to train, its own parameters frozen: what PEFT's ``get_peft_model`` is for LoKr.

    ``autocast_adapter_dtype``: the adapter's parameters are fp32 where the base is fp16 or bf16. The model itself is
    changed: its layers are wrapped in place. Raises as ``LoKrModel`` does, and then the model is unchanged.

    >>> from torch import nn
    >>> model = get_lokr_model(nn.Sequential(nn.Linear(64, 64)), LoKrConfig(r=2, target_modules=["0"]))
    >>> model.print_trainable_parameters()
    trainable params: 96 || all params: 4,256 || trainable%: 2.2556
    """
    heads = _HEADS.get(str(peft_config.task_type).rpartition(".")[2])
    if heads:
        peft_config = replace(peft_config, modules_to_save=[*(peft_config.modules_to_save or ()), *heads])
    path = getattr(model, "name_or_path", None)
    if peft_config.base_model_name_or_path is None and isinstance(path, str) and path:
        peft_config = replace(peft_config, base_model_name_or_path=path)
    return LoKrModel(model, peft_config, adapter_name, low_cpu_mem_usage, autocast_adapter_dtype=autocast_adapter_dtype)


class LoKrModel(nn.Module):
    """Wraps layers of ``model`` (in place) and freezes all else; calls and attributes go on to ``model``.

    ``low_cpu_mem_usage``: the adapter's parameters are on the meta device, for values that are loaded later.
    ``autocast_adapter_dtype``: as for ``get_lokr_model``; PEFT's ``LoKrModel`` follows the base's dtype.

    >>> import torch
    >>> base = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    >>> model = LoKrModel(base, LoKrConfig(r=2, target_modules=["0"]), "default")
    >>> model(torch.zeros(1, 8)).shape
    torch.Size([1, 4])

    Raises LoKrMatchError where ``target_modules`` names nothing (with names that are near), TypeError where it names a
    module of a kind that cannot have an adapter, LoKrValueError for a name that is taken: the model is then unchanged.
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
        self._active: list[str] = [adapter_name]
        self._inject(
            *(adapter_name, config),
            tensors=state_dict,
            file=file,
            fp32=autocast_adapter_dtype,
            on_meta=low_cpu_mem_usage,
        )
        self.set_adapter(adapter_name, inference_mode=config.inference_mode)

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":  # not there yet
                raise
            return getattr(self.model, name)

    @property
    def base_model(self) -> LoKrModel:
        """This model itself: what PEFT's wrapper around its ``LoKrModel`` calls it, as in ``base_model.model``."""
        return self

    def get_base_model(self) -> nn.Module:
        """The wrapped model, with the adapters in its layers."""
        return self.model

    # adapters

    def _inject(self, name: str, config: LoKrConfig, **how) -> None:
        biased = [other for other, each in self.peft_config.items() if each.bias != "none"]
        if config.bias != "none" and biased:
            raise LoKrValueError("Only one adapter of a model can train biases", found=f"{biased[0]!r} and {name!r}")
        config.target_modules = resolve_targets(self.model, config)
        before = self._wrappers()
        targets = inject(self.model, name, config, **how)
        if not before:
            ours = {id(p) for p in adapter_parameters(self.model, name, config).values()}
            for parameter in self.model.parameters():
                parameter.requires_grad_(id(parameter) in ours and parameter.requires_grad)
        self.peft_config[name] = config
        self.targeted_module_names += [path for path in targets if path not in self.targeted_module_names]

    def add_adapter(
        self,
        adapter_name: str,
        peft_config: LoKrConfig,
        low_cpu_mem_usage: bool = False,
        autocast_adapter_dtype: bool = True,
    ) -> None:
        """One more adapter; it becomes active by ``set_adapter``. Raises as the constructor does."""
        self._inject(adapter_name, peft_config, fp32=autocast_adapter_dtype, on_meta=low_cpu_mem_usage)
        self._refresh()

    def _refresh(self) -> None:
        """The layers' active adapters are the model's, whatever layers came or went; what is trained stays."""
        trained = {id(p): p.requires_grad for p in self.model.parameters()}
        self.set_adapter(self._active)
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter.requires_grad and trained[id(parameter)])

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter; where it was the only active one, the first of the others becomes active.

        Raises LoKrValueError for a name that there is not, and for one that is merged.
        """
        self._check_known([adapter_name])
        if any(adapter_name in layer.merged_adapters for layer in self._layers()):
            raise LoKrValueError(f"The adapter {adapter_name!r} is merged", hint="call unmerge_adapter() first")
        for module in self._wrappers():
            if adapter_name in module:
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
            known = ", ".join(map(repr, self.peft_config))
            raise LoKrValueError(f"There is no adapter {unknown[0]!r}", expected=f"one of {known}", found=unknown[0])

    def _layers(self) -> list[LoKrLayer]:
        return [module for module in self.model.modules() if isinstance(module, LoKrLayer)]

    def _wrappers(self) -> list[LoKrLayer | ModulesToSaveWrapper]:
        return [m for m in self.model.modules() if isinstance(m, (LoKrLayer, ModulesToSaveWrapper))]

    @property
    def active_adapters(self) -> list[str]:
        return list(self._active)

    @property
    def active_adapter(self) -> str | list[str]:
        """The active adapter's name, or their names where there are several."""
        return self._active[0] if len(self._active) == 1 else list(self._active)

    def set_adapter(self, adapter_name: str | Sequence[str], inference_mode: bool = False) -> None:
        """Use these adapters, added up, and train them (not in inference mode); LoKrValueError for unknown names."""
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        self._check_known(names)
        for module in self._wrappers():
            module.set_adapter(names, inference_mode)
        self._active = names
        if not inference_mode:
            self._train_biases()

    def _train_biases(self) -> None:
        kind = next(
            (self.peft_config[name].bias for name in self._active if self.peft_config[name].bias != "none"), None
        )
        layers = {path for path, module in self.model.named_modules() if isinstance(module, LoKrLayer)}
        for name, parameter in self.model.named_parameters() if kind else ():
            path, _, last = name.rpartition(".")
            mine = kind == "all" or path.removesuffix(".base_layer") in layers
            if last == "bias" and mine and "modules_to_save" not in path and "original_module" not in path:
                parameter.requires_grad_(True)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        """Train these adapters' factors, or do not."""
        for layer in self._layers():
            layer.set_requires_grad(adapter_names, requires_grad)

    def enable_adapter_layers(self) -> None:
        """Undo ``disable_adapter_layers``: the active adapters are used and trained."""
        for module in self._wrappers():
            module.enable_adapters(True)

    def disable_adapter_layers(self) -> None:
        """The base model's own output, but for biases that were trained."""
        trained = [name for name in self._active if self.peft_config[name].bias != "none"]
        if trained:
            warnings.warn(f"{trained[0]!r} has trained biases of the base model: they stay", stacklevel=2)
        for module in self._wrappers():
            module.enable_adapters(False)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """``with model.disable_adapter():`` the base model's own output. Afterwards all is as it was before."""
        disabled = [(module, module.disable_adapters) for module in self._wrappers()]
        trained = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        self.disable_adapter_layers()
        try:
            yield
        finally:
            for module, was_disabled in disabled:
                module.enable_adapters(not was_disabled)
            for parameter, requires_grad in trained:
                parameter.requires_grad_(requires_grad)

    # merging

    def merge_adapter(self, adapter_names: Sequence[str] | None = None, safe_merge: bool = False) -> None:
        """Add adapters (by default the active ones) to the weights, which are kept beside for ``unmerge_adapter``.

        ``safe_merge``: LoKrValueError where a number would not be finite. After an error all is as it was.
        """
        merged_here: list[LoKrLayer] = []
        try:
            for layer in self._layers():
                before = layer.merged
                layer.merge(safe_merge, adapter_names)
                if layer.merged and not before:
                    merged_here.append(layer)
        except BaseException:
            for layer in merged_here:
                layer.unmerge()
            raise

    def unmerge_adapter(self) -> None:
        """Put every weight back, bit for bit, as it was before the first merge."""
        for layer in self._layers():
            layer.unmerge()

    def merge_and_unload(
        self,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: Sequence[str] | None = None,
        progress: bool = False,
    ) -> nn.Module:
        """The base model with the adapters merged into its weights and their layers taken out.

        ``progressbar``, or ``progress``: show a bar on a terminal. With ``safe_merge`` every layer is merged and
        checked before the first is taken out, without it one after another, in less memory.
        """
        if safe_merge:
            self.merge_adapter(adapter_names, safe_merge=True)
        return self._take_out(adapter_names, merge=True, progress=progressbar or progress)

    def unload(self) -> nn.Module:
        """The base model with the adapters' layers taken out; what is merged stays merged."""
        return self._take_out(None, merge=False, progress=False)

    def _take_out(self, adapter_names: Sequence[str] | None, merge: bool, progress: bool) -> nn.Module:
        named = [(n, m) for n, m in self.model.named_modules() if isinstance(m, (LoKrLayer, ModulesToSaveWrapper))]
        with progress_bar("merging", " layers") as show:
            for done, (path, module) in enumerate(named, 1):
                if isinstance(module, ModulesToSaveWrapper):
                    replace_module(self.model, path, module.current if merge else module.original_module)
                    continue
                names = self._active if adapter_names is None else adapter_names
                if merge:
                    module.merge(adapter_names=[name for name in names if name not in module.merged_adapters])
                replace_module(self.model, path, module.base_layer)
                if progress:
                    show(done, len(named))
        return self.model

    # numbers

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """(trainable parameters, all parameters)."""
        parameters = list(self.parameters())
        return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)

    def print_trainable_parameters(self) -> None:
        """Print both numbers and their ratio."""
        trainable, total = self.get_nb_trainable_parameters()
        share = 100 * trainable / total
        print(f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {share:.4f}")

    # files

    def adapter_state_dict(self, adapter_name: str = "default") -> dict[str, Tensor]:
        """An adapter's tensors under the keys that PEFT saves, gathered where they are sharded (by all processes)."""
        self._check_known([adapter_name])
        found = adapter_parameters(self.model, adapter_name, self.peft_config[adapter_name])
        found = {key: tensor.detach() for key, tensor in found.items()}
        return {key: t.full_tensor() if hasattr(t, "full_tensor") else t for key, t in found.items()}

    def to_adapter(self, adapter_name: str | None = None) -> Adapter:
        """An adapter (the active one) for ``save_adapter`` and all else that takes one. See ``export.to_adapter``."""
        return to_adapter(self, adapter_name)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        safe_serialization: bool = True,
        selected_adapters: Sequence[str] | None = None,
        is_main_process: bool = True,
    ) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``, which PEFT's ``PeftModel`` reads.

        As PEFT has it, the adapter "default" goes into the folder itself, others into folders of their names, and the
        file says ``inference_mode``. Where parameters are sharded every process has to call it; the main one writes.
        Raises LoKrValueError without ``safe_serialization``: no pickles are written.
        """
        if not safe_serialization:
            raise LoKrValueError("Adapters are saved as safetensors only", found="safe_serialization=False")
        names = list(self.peft_config) if selected_adapters is None else list(selected_adapters)
        self._check_known(names)
        for name in names:
            check_described(self, name)
            tensors = self.adapter_state_dict(name)
            if not is_main_process:
                continue
            folder = Path(save_directory) if name == "default" else Path(save_directory) / name
            folder.mkdir(parents=True, exist_ok=True)
            save_tensors(tensors, folder / WEIGHTS_NAME, {"format": "pt"})
            config = replace(self.peft_config[name], inference_mode=True)
            config.save_pretrained(folder, self._for_peft(name))

    def _for_peft(self, name: str) -> dict[str, tuple[int, float]]:
        """The rank from which PEFT makes factors of the same form, and the scaling, by module."""
        whole = self.peft_config[name].full_matrix
        layers = {path: m for path, m in self.model.named_modules() if isinstance(m, LoKrLayer) and name in m}
        return {path: (WHOLE if whole else m.r[name], m.trained_scaling(name)) for path, m in layers.items()}

    def load_adapter(
        self,
        model_id: str | os.PathLike,
        adapter_name: str,
        is_trainable: bool = False,
        subfolder: str | None = None,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = True,
    ) -> _IncompatibleKeys:
        """Add the adapter of a folder, PEFT's or ours, to this model; it becomes active by ``set_adapter``.

        The model is in eval mode afterwards, as PEFT has it, but for one that ``is_trainable``.
        ``low_cpu_mem_usage``: whatever it says, nothing is initialised that is loaded. Returns, as PEFT does, the keys
        that were missing and left over: none, or it would have raised.

        Raises LoKrFileError for what cannot be read, LoKrMatchError for an adapter of another architecture: the model
        is then unchanged.
        """
        folder = Path(model_id) / (subfolder or "")
        config = LoKrConfig.from_pretrained(folder, inference_mode=not is_trainable)
        how = dict(tensors=read_weights(folder), file=folder, fp32=autocast_adapter_dtype)
        self._inject(adapter_name, config, **how)
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
        """``model`` with the adapter of a folder, PEFT's or ours; ``is_trainable``: to go on training.

        ``config`` is used instead of the folder's; its ``inference_mode`` is set. ``low_cpu_mem_usage``: as there.
        Raises as ``load_adapter`` does.
        """
        folder = Path(model_id) / (subfolder or "")
        config = LoKrConfig.from_pretrained(folder) if config is None else config
        config.inference_mode = not is_trainable
        how = dict(state_dict=read_weights(folder), file=folder, autocast_adapter_dtype=autocast_adapter_dtype)
        loaded = cls(model, config, adapter_name, **how)
        return loaded if is_trainable else loaded.eval()
