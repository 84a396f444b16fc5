"""``python -m benchmarks [--out FOLDER] [--only PART]``: a table, a JSON file and a plot.

The part "gpu" runs where an accelerator is. ``--only gpu --device cpu --tiny`` is its dry run, which keeps nothing.

The results lie in ``benchmarks/results``, each part with the machine and the day it was measured; a run puts its own in
the place of those.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import tempfile
from datetime import date
from pathlib import Path

import torch

from tests.hosts import base_directory, find_comfyui

from . import convert, gpu, gpu_table, in_a1111, in_forge, kron, live, live_plan, names, training
from .devices import accelerator, card

PARTS = (
    "kron",
    "names",
    "convert",
    "live",
    "live-plan",
    "training",
    "gpu",
    "comfyui",
    "comfyui-live",
    "comfyui-steps",
    "comfyui-train",
    "a1111",
    "forge",
)


def machine(part: str = "", device: str | None = None) -> dict:
    """Where a part was measured; of the part "gpu" its card too."""
    names = [line.split(":", 1)[1].strip() for line in _cpu() if line.startswith("model name")]
    used = torch.device(device) if device else accelerator()
    on = {"card": card(used)} if part == "gpu" and used is not None else {}
    return on | {
        "processor": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "memory GiB": _memory(),
    }


def _memory() -> int | None:
    """The machine's memory in GiB. Returns None on Windows, which does not tell Python."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30) if hasattr(os, "sysconf") else None


def _cpu() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def comfyui(name: str = "in_comfyui.py") -> list[dict]:
    """The rows of a script that runs in ComfyUI's process; [] without a ComfyUI."""
    host = find_comfyui()
    if host is None:
        print("no ComfyUI here (COMFYUI_PATH, COMFYUI_PYTHON): its part is left out")
        return []
    with tempfile.TemporaryDirectory() as folder:
        base, out = base_directory(Path(folder)), Path(folder) / "out.json"
        script = Path(__file__).with_name(name)
        subprocess.run([host.python, script, base, out], env=host.environment, check=True)
        return json.loads(out.read_text())


def show(results: dict) -> None:
    for row in results.get("kron", []):
        ms = ", ".join(f"{name} {value:.2f}" for name, value in row["ms"].items())
        print(f"{row['case']}\n    ms: {ms}")
        print(
            f"    {row['times faster than torch.kron']:.1f}x faster than torch.kron, "
            f"{row['of a bare add']:.2f}x a bare add, "
            f"extra memory {row['extra memory / weight']:.3f} of the weight "
            f"(torch.kron {row['extra memory / weight, torch.kron']:.1f})"
        )
    for row in results.get("names", []):
        print(f"{row['case']}: " + ", ".join(f"{name} {value:.0f} ms" for name, value in row["ms"].items()))
    print("\n".join(convert.lines(results.get("convert", []))))
    if "live" in results:
        print("\n".join(live.lines(results["live"])))
    print("\n".join(live_plan.lines(results.get("live-plan", []))))
    print("\n".join(training.lines(results.get("training", []))))
    print("\n".join(gpu_table.lines(results.get("gpu", {}))))
    for row in results.get("comfyui", []):
        print(row["case"])
        for what in ("first patch", "change"):
            ratio = row[f"{what}, of the floor"]
            print(f"    {what}: " + ", ".join(f"{n} {v:.2f} s ({ratio[n]:.2f}x)" for n, v in row[f"{what} s"].items()))
        print("    peak MiB over the base: " + ", ".join(f"{n} {v:.0f}" for n, v in row["peak MiB"].items()))
        for line in row["profile"]:
            print(f"      {line['own']:6.1%} own {line['with callees']:6.1%} in all  {line['call']}")
    for row in results.get("comfyui-live", []):
        print(row["case"])
        for what, values in row.items():
            if what != "case":
                ms = ", ".join(f"{name} {value * 1e3:.1f} ms" for name, value in values.items())
                print(f"    {what[:-2]}: {ms}")
    for row in results.get("comfyui-steps", []):
        ratio = row["of a merged run"]
        print(f"{row['case']}\n    " + ", ".join(f"{n} {v:.1f} s ({ratio[n]:.3f}x)" for n, v in row["run s"].items()))
    for row in results.get("comfyui-train", []):
        print(f"{row['case']}; the model afterwards, bit for bit: {row['the model afterwards, bit for bit']}")
        faster, peak, steps = row["ours times faster"], row["peak MiB"], row["step s"].items()
        print("    " + ", ".join(f"{n} {v:.2f} s ({faster[n]:.2f}x, {peak[n]:.0f} MiB)" for n, v in steps))
    for row in (*results.get("a1111", []), *results.get("forge", [])):
        print(f"{row['case']}; the base picture after it, bit for bit: {row['base picture after it, bit for bit']}")
        print("    " + ", ".join(f"{what} {value:.2f} s" for what, value in row["seconds"].items()))


def plot(results: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [(row["case"], row["ms"], "ms") for row in results.get("kron", []) + results.get("names", [])]
    rows = [row for part in results.get("live", {}).values() for row in part if "ms" in row]
    panels += [(row["case"], row["ms"], "ms") for row in rows]
    panels += [(row["case"], row["ms"], "ms, a training step") for row in results.get("training", [])]
    steps = [row for row in results.get("gpu", {}).get("steps", []) if row.get("ms")]
    panels += [(f"{row['case']}, {row['form']}", row["ms"], "ms") for row in steps]
    panels += [(row["case"], row["change s"], "s, strength changed") for row in results.get("comfyui", [])]
    switched = results.get("comfyui-live", [])
    panels += [(row["case"], row["over an unchanged run s"], "s, strength changed") for row in switched]
    panels += [(row["case"], row["run s"], "s") for row in results.get("comfyui-steps", [])]
    panels += [(row["case"], row["step s"], "s") for row in results.get("comfyui-train", [])]
    columns = 4
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(4.2 * columns, 2.3 * lines), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, values, unit) in zip(axes.flat, panels, strict=False):
        colours = ["#2a9d8f" if name == "ours" else "#b0b7c3" for name in values]
        bars = axis.barh(list(values), list(values.values()), color=colours)
        axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
        axis.margins(x=0.18)
        axis.set_title(title, fontsize=8)
        axis.set_xlabel(unit, fontsize=8)
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def measured(out: Path, only: str | None, device: str | None = None) -> dict[str, dict]:
    """{part: {"machine", "date", "rows"}}: those in ``out``, updated with the new measurements."""
    parts = {"kron": kron.run, "names": names.run, "live": live.run, "training": training.run, "comfyui": comfyui}
    parts |= {"convert": convert.run, "live-plan": live_plan.run}
    parts["comfyui-live"] = lambda: comfyui("in_comfyui_live.py")
    parts["comfyui-steps"] = lambda: comfyui("in_comfyui_steps.py")
    parts["comfyui-train"] = lambda: comfyui("in_comfyui_train.py")
    parts["gpu"] = lambda: gpu.run(device)
    parts |= {"a1111": in_a1111.run, "forge": in_forge.run}
    file = out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for name, part in parts.items():
        if only in (None, name):
            rows = part()
            if rows:
                results[name] = {"machine": machine(name, device), "date": date.today().isoformat(), "rows": rows}
                out.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(results, indent=1) + "\n")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    here = Path(__file__).with_name("results")
    parser.add_argument("--out", type=Path, default=here, help="folder of results.json and results.png")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--device", help='of the part "gpu", such as cuda:1 (default: the accelerator that is here)')
    parser.add_argument("--tiny", action="store_true", help='a dry run of the part "gpu": small models')
    arguments = parser.parse_args()
    if arguments.tiny:
        if arguments.only != "gpu":
            parser.error("--tiny needs --only gpu")
        show({"gpu": gpu.run(arguments.device, tiny=True)})
        return
    results = measured(arguments.out, arguments.only, arguments.device)
    rows = {name: part["rows"] for name, part in results.items()}
    show({name: found for name, found in rows.items() if arguments.only in (None, name)})
    if not rows:
        return
    if importlib.util.find_spec("matplotlib") is None:
        print("no matplotlib here: the plot is left out")
    else:
        plot(rows, arguments.out / "results.png")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
