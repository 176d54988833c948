"""FGAseg: fine-grained pixel-text alignment for open-vocabulary semantic segmentation."""

__version__ = "0.1.0"
