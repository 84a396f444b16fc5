"""A network module for kohya's sd-scripts and for musubi-tuner: ``--network_module lokr_core.kohya``."""

from ._create import (
    create_arch_network,
    create_arch_network_from_weights,
    create_network,
    create_network_from_weights,
)
from ._network import LoKrNetwork

__all__ = [
    "LoKrNetwork",
    "create_arch_network",
    "create_arch_network_from_weights",
    "create_network",
    "create_network_from_weights",
]
