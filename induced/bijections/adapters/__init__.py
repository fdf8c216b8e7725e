"""Charts made of other libraries' bijections; none of those libraries is imported, an object is known by its class's module.

Points go to coordinates, in the normalising direction of a flow. A flow that is a sequence becomes a `Composition` of its
layers, so that the amplification sees each of them. The adapted object is held, not copied: its parameters train, and are
saved and moved with the chart. Its modules are kept in evaluation mode (dropout off, running statistics frozen), whatever
the mode of the chart, since a chart is one function; zuko's own modules, which read the mode only to say what gets
gradients, follow it.

Each is tried once when it is adapted: coordinates around 0 must come back from their points, and those as large as 2 have some.
Not so callables, of which nothing says the dtype and device, and a flow that waits for data, which is no function yet:
`check_bijection` judges those.
"""

from induced.bijections.adapters.callables import from_callables
from induced.bijections.adapters.flows import from_freia, from_nflows, from_normflows, from_zuko
from induced.bijections.adapters.transforms import from_transform

__all__ = ["from_callables", "from_freia", "from_nflows", "from_normflows", "from_transform", "from_zuko"]
