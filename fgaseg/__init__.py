"""FGAseg: fine-grained pixel-text alignment for open-vocabulary semantic segmentation.

In Python, a trained run is a function of a picture and words:

    from fgaseg import load_segmenter
    segment = load_segmenter("main")
    result = segment("photo.jpg", ["sky", "tree", "sofa|couch"])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fgaseg.using.segmenter import load_segmenter as load_segmenter

__version__ = "0.1.0"
__all__ = ["load_segmenter"]


def __getattr__(name: str) -> Any:
    """torch is imported when a model is wanted, and not before: that takes seconds."""
    if name == "load_segmenter":
        from fgaseg.using.segmenter import load_segmenter

        return load_segmenter
    raise AttributeError(f"module 'fgaseg' has no attribute '{name}'")
