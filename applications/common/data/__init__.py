"""Sources of data; image data sets as stored (uint8), their readers, and the map between pixels and what a model sees."""

from applications.common.data.image_set import ImageSet
from applications.common.data.pixels import to_uint8, to_unit
from applications.common.data.sets import NAMES, load
from applications.common.data.source import Source, Tensors

__all__ = ["NAMES", "ImageSet", "Source", "Tensors", "load", "to_uint8", "to_unit"]
