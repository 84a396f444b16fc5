"""A training as accelerate's users write it: ``accelerated.py OUT``, alone or under ``accelerate launch``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

from lokr_core import LoKrConfig, get_lokr_model, save_adapter
from tests.distributed.training import Net

STEPS, BATCH = 12, 4


def main(out: Path) -> None:
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    pictures = torch.randn(STEPS * BATCH, 3, 8, 8)
    model = get_lokr_model(Net(), LoKrConfig(r=2, alpha=4, target_modules=["conv", "up", "down"]))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    # accelerate gives each process every so manieth batch: together they are those of one process.
    loader = DataLoader(TensorDataset(pictures), batch_size=BATCH // accelerator.num_processes)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses = []
    for (clean,) in loader:
        loss = F.mse_loss(model(clean), clean.flip(-1))
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(accelerator.gather(loss.detach()).mean()))
    accelerator.wait_for_everyone()
    adapter = accelerator.unwrap_model(model).to_adapter()
    if accelerator.is_main_process:
        save_adapter(adapter, out / "lokr.safetensors", format="kohya")
        (out / "losses.json").write_text(json.dumps(losses))
    accelerator.end_training()
    time.sleep(0.2)  # gloo's threads may abort a process that exits before them: see cli/_training.py


if __name__ == "__main__":
    main(Path(sys.argv[1]))
