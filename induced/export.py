"""Maps and charts as graphs of plain tensor operations, with all that depends on the weights alone computed beforehand."""

import warnings
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

__all__ = ["materialized"]


def materialized(module: nn.Module, *example: Tensor) -> fx.GraphModule:
    """The graph of a module in inference, where the inverse of a convolution, of an LU or of reflections has become a constant.

    What is left needs no linear algebra that other runtimes miss: pass it to `torch.onnx.export` or `torch.export.export`, with
    `dynamic_shapes=({0: torch.export.Dim("batch")},)` for a free number of points. The weights are those of the moment, and do
    not train.

    Arguments:
        module: a chart, a map or an operator; `g.inv` for the inverse of a chart, `f.pinv()` for that of a map.
        example: an input of the shape, dtype and device that the graph is for. The length of its first dimension is free in the
            graph where it is at least 2 and the module takes others.

    Returns:
        A module of the same values for inputs of that shape.

    Example:
        >>> import torch
        >>> from induced.bijections import Conv1x1
        >>> g = Conv1x1((3, 2, 2)).inv
        >>> x = torch.randn(1, 3, 2, 2)
        >>> torch.allclose(materialized(g, x)(x), g(x), atol=1e-5)
        True

    Law:
        `materialized(m, x)(y) == m(y)`, for more points y too (laws/test_capabilities.py)
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its pytrees
        free = tuple({0: Dim.AUTO} if x.dim() else None for x in example)
        exported = torch.export.export(module, example, dynamic_shapes=free, strict=False)
        graph_module: Any = exported.run_decompositions({}).module()
        values: dict[fx.Node, Any] = {}
        for node in graph_module.graph.nodes:
            if node.op == "get_attr":
                values[node] = attrgetter(node.target)(graph_module)
            elif node.op == "call_function" and all(n in values for n in node.all_input_nodes):
                arguments, keywords = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*arguments, **keywords)
    for k, (node, value) in enumerate(values.items()):
        if node.is_impure() and not node.users:  # an assertion about weights, which has held
            graph_module.graph.erase_node(node)
        elif node.op == "call_function" and not all(user in values for user in node.users):
            graph_module.register_buffer(f"constant_{k}", value)
            with graph_module.graph.inserting_before(node):
                node.replace_all_uses_with(graph_module.graph.get_attr(f"constant_{k}"))
    graph_module.graph.eliminate_dead_code()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return fx.GraphModule(graph_module, graph_module.graph)  # which holds no weight that is not used
