"""What brings a trained net closer to SN's constraints: batch-norm merged away, max-pooling replaced."""

from __future__ import annotations

import copy

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from snnkit.tracing import BATCH_NORMS, Trace, name_of, place_of

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
POOLS = {nn.MaxPool1d: nn.AvgPool1d, nn.MaxPool2d: nn.AvgPool2d, nn.MaxPool3d: nn.AvgPool3d}
ADAPTIVE_POOLS = {
    nn.AdaptiveMaxPool1d: nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool2d: nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool3d: nn.AdaptiveAvgPool3d,
}


def replace_max_pool(net: nn.Module) -> nn.Module:
    """A copy of `net` with an average pool of the same cells in place of every max-pool module.

    Means are smaller than maxima, so the copy needs a short training before it is as good as the net was
    (`snnkit.train.fit`). Padding does not count as an element. Functional max-pools cannot be replaced: `lint` names
    them.

    Raises ValueError for a dilated max-pool, or if there is none to replace.
    """
    net = copy.deepcopy(net)
    named = net.named_modules(remove_duplicate=False)  # a pool that is used in two places stands in both
    pools = {name: m for name, m in named if isinstance(m, (*POOLS, *ADAPTIVE_POOLS))}
    if not pools:
        raise ValueError(f"{type(net).__name__} has no max-pool module to replace; convert.lint(net) says what it has")
    for name, pool in pools.items():
        if type(pool) in ADAPTIVE_POOLS:
            average = ADAPTIVE_POOLS[type(pool)](pool.output_size)
        elif pool.dilation not in (1, (1, 1), (1, 1, 1)):
            raise ValueError(f"{name} is a dilated max-pool, which no average pool can stand for; train without it")
        else:
            options = (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)
            average = POOLS[type(pool)](*options, count_include_pad=False)
        if not name:
            return average
        net.set_submodule(name, average)
    return net


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
