"""``get_lokr_model``: a model with a new adapter to train."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ..peft import LoKrConfig
from ._defaults import HEADS_BY_TASK
from ._model import LoKrModel


def get_lokr_model(
    model: nn.Module,
    peft_config: LoKrConfig,
    adapter_name: str = "default",
    autocast_adapter_dtype: bool = True,
    low_cpu_mem_usage: bool = False,
) -> LoKrModel:
    """``model`` with LoKr adapters to train and its own parameters frozen, as PEFT's ``get_peft_model``.

    model: changed in place: its layers are wrapped
    autocast_adapter_dtype: whether the adapter's parameters are fp32 if the base is fp16 or bf16

    Raises as ``LoKrModel`` does, and then the model is unchanged.

    >>> from torch import nn
    >>> model = get_lokr_model(nn.Sequential(nn.Linear(64, 64)), LoKrConfig(r=2, target_modules=["0"]))
    >>> model.print_trainable_parameters()
    trainable params: 96 || all params: 4,256 || trainable%: 2.2556
    """
    heads = HEADS_BY_TASK.get(str(peft_config.task_type).rpartition(".")[2])
    if heads:
        peft_config = replace(peft_config, modules_to_save=[*(peft_config.modules_to_save or ()), *heads])
    path = getattr(model, "name_or_path", None)
    if peft_config.base_model_name_or_path is None and isinstance(path, str) and path:
        peft_config = replace(peft_config, base_model_name_or_path=path)
    return LoKrModel(model, peft_config, adapter_name, low_cpu_mem_usage, autocast_adapter_dtype=autocast_adapter_dtype)
