"""What a trainer multiplied w1 ⊗ w2 by, as its file tells: a table of rules."""

from ._rules import NO_ALPHA, Scaling
from ._table import RULES, Rule, scaling_of

__all__ = ["NO_ALPHA", "RULES", "Rule", "Scaling", "scaling_of"]
