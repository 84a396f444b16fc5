"""PEFT's defaults for known models: targets by type (``utils/constants.py``), heads by task (``peft_model.py``)."""

from __future__ import annotations

_TYPES_BY_TARGETS = {
    ("q_proj", "v_proj"): "bart opt gptj gpt_neo llama llama4 mistral mixtral stablelm gemma gemma2 gemma3_text "
    "qwen2 qwen3",
    ("query", "value"): "bert roberta xlm-roberta electra layoutlm",
    ("query_key_value",): "bloom gpt_neox chatglm RefinedWebModel RefinedWeb falcon",
    ("q", "v"): "t5 mt5",
    ("query_proj", "value_proj"): "deberta-v2",
    ("q_proj", "v_proj", "fc1", "fc2"): "phi",
}
TARGETS_BY_MODEL_TYPE = {kind: set(names) for names, kinds in _TYPES_BY_TARGETS.items() for kind in kinds.split()}
"""``config.model_type`` -> the modules that ``target_modules=None`` means, of those that LoKr can be trained on."""

CLASSIFIERS = ("classifier", "score")
HEADS_BY_TASK = {"SEQ_CLS": CLASSIFIERS, "TOKEN_CLS": CLASSIFIERS, "QUESTION_ANS": ("qa_outputs",)}
"""``task_type`` -> the heads that are trained whole."""
