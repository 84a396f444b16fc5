"""What a trained LoKr does to a layer: the shapes of its factors, its products with their gradients, DoRA's ratio."""

from ._dora import trainable_dora_ratio, weight_norms
from ._products import Products, Update, added, as_computed, built_kron, plus_update, random_rows
from ._shapes import FACTORS, AdapterShapes, planned_linear

__all__ = [
    "FACTORS",
    "AdapterShapes",
    "Products",
    "Update",
    "added",
    "as_computed",
    "built_kron",
    "planned_linear",
    "plus_update",
    "random_rows",
    "trainable_dora_ratio",
    "weight_norms",
]
