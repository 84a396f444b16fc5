"""``lokr train``: Stable Diffusion and Flux models of diffusers, folders of pictures, and each family's own loss."""

from ._finetune import FinetuneOptions, Finetuning
from ._objective import PREDICTIONS, TIMES, Diffusion, FlowMatching, Question
from ._pictures import Picture, bucket_of, find_pictures
from ._source import Source, source_of

__all__ = [
    "PREDICTIONS",
    "TIMES",
    "Diffusion",
    "FinetuneOptions",
    "Finetuning",
    "FlowMatching",
    "Picture",
    "Question",
    "Source",
    "bucket_of",
    "find_pictures",
    "source_of",
]
