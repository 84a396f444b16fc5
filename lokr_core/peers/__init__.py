"""LoKr layers of other libraries, PEFT's, LyCORIS', kohya's and ai-toolkit's, computed by this one."""

from ._handle import SpeedUpHandle, SpeedUpReport, speed_up

__all__ = ["SpeedUpHandle", "SpeedUpReport", "speed_up"]
