"""The node that changes a strength while sampling."""

from __future__ import annotations

from comfy_api.latest import io

from ..lokr_core.errors import LoKrError
from ..lokr_core.strengths import EASES, NOISE, STEPS, Schedule, keyframes
from .inputs import CATEGORY, Schedules


def _percent(name: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.001, tooltip=tooltip)


def _factor(name: str, of: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=1.0,
        min=-10.0,
        max=10.0,
        step=0.01,
        advanced=True,
        tooltip=f"A further factor for the {of} prompt. Where the two differ, the model runs once for each.",
    )


def _schedule(start, end, keyframes_text, ease, percent_of, cond, uncond) -> Schedule:
    return Schedule(keyframes(keyframes_text), ease, start, end, percent_of, cond, uncond)


class LoKrSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrSchedule",
            display_name="LoKr Schedule",
            category=CATEGORY,
            description="A strength that changes while sampling, for LoKr loaders.",
            search_aliases=["lokr", "lora schedule", "timestep", "keyframes", "strength over steps"],
            inputs=[
                _percent("start", 0.0, "Before this part of the run (0 to 1) the strength is 0."),
                _percent("end", 1.0, "After this part of the run (0 to 1) the strength is 0."),
                io.String.Input(
                    "keyframes",
                    default="",
                    multiline=True,
                    placeholder="0:0, 0.3:1, 1:0.2",
                    tooltip="percent:strength, in order. They multiply the loader's strength; empty is 1 throughout.",
                ),
                io.Combo.Input("ease", options=list(EASES), tooltip="How the strength goes from keyframe to keyframe."),
                io.Combo.Input(
                    "percent_of",
                    options=[STEPS, NOISE],
                    advanced=True,
                    tooltip="steps: of this sampler's steps, the first is 0 and the last 1. noise: of the noise, as in "
                    "ControlNet's start_percent, whatever the scheduler; right for runs in several passes.",
                ),
                _factor("cond", "positive"),
                _factor("uncond", "negative"),
            ],
            outputs=[Schedules.Output("schedule", tooltip="For the schedule input of a LoKr loader or stack.")],
        )

    @classmethod
    def validate_inputs(cls, start, end, keyframes) -> bool | str:
        try:
            if None not in (start, end, keyframes):  # None: it comes by a connection, and is not known yet
                _schedule(start, end, keyframes, next(iter(EASES)), STEPS, 1.0, 1.0)
        except LoKrError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, start, end, keyframes, ease, percent_of, cond, uncond) -> io.NodeOutput:
        return io.NodeOutput(_schedule(start, end, keyframes, ease, percent_of, cond, uncond))
