"""``lokr demo`` and ``lokr train``, on small models that are made on the spot."""

from ._demo import run_demo
from ._pictures import load_pictures
from ._small_model import TARGETS, WIDTH, latents_of, small_flux
from ._train_pictures import add_train_arguments, train_on_pictures

__all__ = [
    "TARGETS",
    "WIDTH",
    "add_train_arguments",
    "latents_of",
    "load_pictures",
    "run_demo",
    "small_flux",
    "train_on_pictures",
]
