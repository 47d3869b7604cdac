"""Batch-norm merged into the layer before it: an extension that SN's constraints do without."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from snnkit.tracing import BATCH_NORMS, Trace, name_of, place_of

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold(trace: Trace) -> None:
    """Merge every batch-norm of `trace`, in eval mode, into the conv or linear layer before it, in place.

    Raises ValueError, naming the batch-norm, where its input is something else, or is read elsewhere too, or comes from
    a layer used in several passes (whose weights would then differ by the pass).
    """
    nodes = list(trace.module.graph.nodes)
    for node in nodes:
        if not trace.is_a(node, BATCH_NORMS):
            continue
        layer, problem = node.args[0], None
        if node.op != "call_module":
            problem = "is a functional call (make it a module)"
        elif trace.target(node).running_mean is None:
            problem = "keeps no running statistics (train it with track_running_stats=True)"
        elif not trace.is_a(layer, (*CONVS, nn.Linear)):
            problem = "does not follow a conv or linear layer (put it there and train again)"
        elif len(layer.users) > 1:
            problem = f"follows {name_of(layer)}, whose output is read elsewhere too (normalise before it branches)"
        elif sum(other.target == layer.target for other in nodes if other.op == "call_module") > 1:
            problem = f"follows {name_of(layer)}, which is used in several passes (give every pass its own layer)"
        if problem:
            where = f" ({place_of(node)})" if place_of(node) else ""
            raise ValueError(f"cannot fold batch-norm: {name_of(node)}{where} {problem}")
        _merge(trace, layer, node)
    trace.module.recompile()


def _merge(trace: Trace, layer: fx.Node, norm: fx.Node) -> None:
    merge = fuse_conv_bn_eval if trace.is_a(layer, CONVS) else fuse_linear_bn_eval
    trace.module.set_submodule(layer.target, merge(trace.target(layer), trace.target(norm)))
    norm.replace_all_uses_with(layer)
    trace.module.graph.erase_node(norm)
