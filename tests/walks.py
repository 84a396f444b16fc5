"""How far a call walks through the project's files until the first product of a LoKr runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[1]
ROOMS = tuple(str(ROOT / room) for room in ("lokr_core", "nodes", "webui"))
KRONECKER = str(ROOT / "lokr_core" / "kronecker")
PRODUCTS = {"mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_", "addcmul", "addcmul_", "convolution", "mul"}


@dataclass
class Walk:
    """From the begin of a function to the first product of a LoKr: calls as (file, function), outermost first.

    stack: the calls that have not returned; entered: all of them, in order. Comprehensions are not counted.
    """

    stack: list[tuple[str, str]] = field(default_factory=list)
    entered: list[tuple[str, str]] = field(default_factory=list)

    @property
    def files_on_stack(self) -> list[str]:
        return list(dict.fromkeys(file for file, _ in self.stack))

    @property
    def files_entered(self) -> list[str]:
        return list(dict.fromkeys(file for file, _ in self.entered))

    def __str__(self) -> str:
        stack = " → ".join(f"{file}:{name}" for file, name in self.stack)
        return (
            f"{len(self.files_on_stack)} files and {len(self.stack)} calls on the stack: {stack}\n"
            f"{len(self.files_entered)} files and {len(self.entered)} calls entered: {', '.join(self.files_entered)}"
        )


def walk(start: Callable, run: Callable[[], object], weights: set[tuple[int, ...]]) -> Walk:
    """Run ``run``, and record from the first call of ``start`` on until a product of a LoKr.

    start: a function or method of the project that ``run`` calls
    weights: shapes of the model's weights; a product with one of them is the model's own
    """
    found, code = Walk(), start.__code__
    state = {"began": False, "ended": False}

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and not state["ended"]:
            state["began"] = state["began"] or frame.f_code is code
            if state["began"] and _is_counted(frame):
                found.entered.append(_name(frame))

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if state["began"] and not state["ended"] and func.__name__.split(".")[0] in PRODUCTS:
                frames = _project_frames(sys._getframe())
                shapes = {tuple(t.shape) for t in args if isinstance(t, torch.Tensor)}
                own = any(shape in weights or shape[::-1] in weights for shape in shapes)
                if frames and frames[-1].f_code.co_filename.startswith(KRONECKER) and not own:
                    state["ended"] = True
                    begin = max(i for i, frame in enumerate(frames) if frame.f_code is code)
                    found.stack = [_name(frame) for frame in frames[begin:]]
            return func(*args, **(kwargs or {}))

    before = sys.getprofile()
    with Watch():
        sys.setprofile(profile)
        try:
            run()
        finally:
            sys.setprofile(before)
    assert state["ended"], f"no product of a LoKr from {start.__qualname__} on"
    return found


def _project_frames(frame: FrameType | None) -> list[FrameType]:
    """The project's own frames from ``frame`` outwards, outermost first."""
    frames = []
    while frame is not None:
        if _is_counted(frame):
            frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def _is_counted(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(ROOMS) and not frame.f_code.co_name.startswith("<")


def _name(frame: FrameType) -> tuple[str, str]:
    return str(Path(frame.f_code.co_filename).relative_to(ROOT)), frame.f_code.co_name
