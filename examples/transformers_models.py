"""LoKr on models of transformers: train one in a few steps, save it, and attach it to the untouched model.

    python examples/transformers_models.py [vit] [whisper] [llm]

The models are tiny ones from configurations, so nothing is downloaded: put `from_pretrained` in their place.
"""

import sys
import tempfile

import torch
import transformers

import lokr_core


def vit():
    """A vision transformer, with the layers that PEFT's example for image classification trains."""
    config = transformers.ViTConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    model = transformers.ViTForImageClassification(config)
    layers = [name for name, m in model.vit.named_modules() if isinstance(m, torch.nn.Linear)]
    return model, [f"vit.{name}" for name in layers], {"pixel_values": torch.randn(2, 3, 32, 32)}


def whisper():
    """Whisper: the attentions of its encoder and its decoder."""
    config = transformers.WhisperConfig(
        vocab_size=99,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=16,
        max_target_positions=16,
        num_mel_bins=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    inputs = {"input_features": torch.randn(1, 8, 32), "decoder_input_ids": torch.arange(8)[None]}
    return transformers.WhisperForConditionalGeneration(config), ["q_proj", "v_proj"], inputs


def llm():
    """A language model: all Linears of its blocks."""
    config = transformers.LlamaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return transformers.LlamaForCausalLM(config), layers, {"input_ids": torch.arange(12)[None]}


def trained(model, layers, inputs, folder):
    """Train a LoKr for a few steps, save it into `folder`, and return the trained model's output."""
    tuned = lokr_core.get_lokr_model(model, lokr_core.LoKrConfig(r=4, alpha=4, target_modules=layers))
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(5):
        tuned(**inputs).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    tuned.save_pretrained(folder)
    with torch.no_grad():
        return tuned.eval()(**inputs).logits


def run(make):
    """Returns (the base's output, the trained model's, that of a new base with the saved file attached)."""
    torch.manual_seed(0)
    model, layers, inputs = make()
    base = model.eval()
    state = {name: weight.clone() for name, weight in base.state_dict().items()}
    with torch.no_grad():
        before = base(**inputs).logits
    with tempfile.TemporaryDirectory() as folder:
        expected = trained(model, layers, inputs, folder)
        fresh = make()[0].eval()
        fresh.load_state_dict(state)
        with lokr_core.attach(fresh, lokr_core.load_adapter(folder)) as handle, torch.no_grad():
            print(f"{make.__name__}: {handle.report.headline}")
            return before, expected, fresh(**inputs).logits


MODELS = {"vit": vit, "whisper": whisper, "llm": llm}

if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        base, expected, attached = run(MODELS[name])
        change, error = (expected - base).abs().max(), (attached - expected).abs().max()
        print(f"  the adapter changes the output by {change:.3f}; attached, it differs by {error:.1e}")
