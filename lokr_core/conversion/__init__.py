"""The maths of turning one kind of update into another, each the nearest that there is and its error known.

``KronSvd`` gives the best LoRA of a LoKr from the factors alone; ``nearest_product`` the nearest LoKr of a LoRA or of a
difference; ``resized`` a LoKr at another rank; ``fit_dora`` the DoRA that turns one weight into another.
"""

from ._blocks import Dense, LowRank, Nearest
from ._dora import DoraFit, fit_dora
from ._forms import FULL, LOKR, LORA, form_of, full, joined, loha, lora, lora_halves, stacked, trained_difference
from ._product import NEAR_BEST, best_product, candidates, fewest, nearest_product
from ._rank import ENERGY, Keep, shared_ranks
from ._regrouped import Regrouped
from ._resize import resized, resized_factor, spectrum_of
from ._svd import KronSvd, Svd, energy_of, svd_of

__all__ = [
    "Dense",
    "DoraFit",
    "ENERGY",
    "FULL",
    "Keep",
    "KronSvd",
    "LOKR",
    "LORA",
    "LowRank",
    "NEAR_BEST",
    "Nearest",
    "Regrouped",
    "Svd",
    "best_product",
    "candidates",
    "energy_of",
    "fewest",
    "fit_dora",
    "form_of",
    "full",
    "joined",
    "loha",
    "lora",
    "lora_halves",
    "nearest_product",
    "resized",
    "resized_factor",
    "shared_ranks",
    "spectrum_of",
    "stacked",
    "svd_of",
    "trained_difference",
]
