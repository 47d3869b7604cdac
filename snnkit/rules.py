"""What conversion carries over, what it refuses, and the constraints of SN sections 4.3 and 6 as a report."""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx, nn

from snnkit import tracing
from snnkit.tracing import Trace, name_of, place_of

PLAIN = 3  # layers before the residual part: He's own and SN's two


@dataclass(frozen=True)
class Finding:
    """`node` breaks a rule: what it does (`what`), where the rule stands (`source`), and the way out (`remedy`).

    `place`: the line of the user's code, if known. `blocking`: conversion refuses it.
    """

    node: str
    place: str
    what: str
    source: str
    remedy: str
    blocking: bool = True

    def __str__(self) -> str:
        where = f" ({self.place})" if self.place else ""
        source = f", {self.source}" if self.source else ""
        return f"{self.node}{where} {self.what} ({self.remedy}{source})"


def lint(net: nn.Module) -> list[Finding]:
    """Everything in `net` that conversion cannot carry, then what breaks a constraint of SN without being refused.

    Raises ValueError for a net that cannot be traced.
    """
    trace = Trace(net)
    return [*refusals(trace), *_advice(trace)]


def refusals(trace: Trace, allow_bias: bool = False) -> list[Finding]:
    """What conversion of `trace` refuses. `allow_bias`: biases become constant currents."""
    found = []
    placeholders = [node for node in trace.module.graph.nodes if node.op == "placeholder"]
    if len(placeholders) != 1:
        what = f"is one of {len(placeholders)} inputs"
        found.append(Finding(placeholders[-1].name, "", what, "", "give the net one image tensor"))
    for node in trace.module.graph.nodes:
        if node.op == "output" and not isinstance(node.args[0], fx.Node):
            remedy = "conversion needs one tensor of class scores"
            found.append(Finding("the net", "", "returns several values, or none", "", remedy))
        problem = _refusal(trace, node, allow_bias)
        if problem and problem not in found:
            found.append(problem)
    return found


def summary(findings: list[Finding]) -> str:
    """All in one line, those of a kind together."""
    kinds: dict[tuple, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.what, finding.remedy), []).append(finding)
    return "; ".join(
        str(first) + (f", likewise {', '.join(other.node for other in others)}" if others else "")
        for first, *others in kinds.values()
    )


def _refusal(trace: Trace, node: fx.Node, allow_bias: bool) -> Finding | None:
    """Why conversion cannot carry `node`; None if it can."""

    def because(what, source, remedy):
        return Finding(name_of(node), place_of(node), what, source, remedy)

    if node.op in ("placeholder", "output") or trace.is_shape(node):
        return None
    if trace.is_a(node, tracing.WEIGHTED):
        if getattr(trace.target(node), "padding_mode", "zeros") != "zeros":
            return because("pads with something else than zeros", "", "pad with zeros")
        if trace.target(node).bias is None or allow_bias:
            return None
        return because("has a bias", "SN section 4.3.1", "train it with bias=False, or pass allow_bias=True")
    if trace.is_a(node, tracing.BATCH_NORMS):
        remedy = "train without it, dropout regularises instead; or pass fold_batchnorm=True"
        return because("is batch-norm", "SN section 4.3.1", remedy)
    if trace.is_a(node, tracing.MAX_POOLS):
        remedy = "use average pooling and train again, see snnkit.convert.replace_max_pool"
        return because("is max-pooling", "SN section 4.3.2", remedy)
    if trace.is_a(node, tracing.FACTORS):
        if not any(_is_number(trace, x) for x in node.args[:2]):
            return because("multiplies or divides two tensors", "", "use sums or concatenations of branches")
        if node.target in tracing.DIVISIONS and _is_number(trace, node.args[0]):
            return because("divides by a tensor", "", "use sums or concatenations of branches")
        if node.kwargs.get("rounding_mode"):
            return because("rounds", "", "divide without rounding_mode")
        return None
    if trace.is_a(node, tracing.JOINS) and any(_is_number(trace, x) and x != 0 for x in _summands(node)):
        return because("adds a constant", "", "make it the bias of a layer, and pass allow_bias=True")
    if trace.is_a(node, (*tracing.RELUS, *tracing.LINEAR, *tracing.JOINS)):
        return _careless(trace, node, because)
    target = trace.target(node)
    kind = type(target).__name__ if node.op == "call_module" else getattr(target, "__name__", str(target))
    if node.op == "get_attr":
        return because("is a parameter or constant used directly", "", "use a conv or linear layer")
    remedy = "use ReLU, average pooling, conv and linear"
    if "softmax" in kind.lower():
        remedy = "leave it out: the largest class stays the largest"
    elif target in tracing.FUNCTIONAL_WEIGHTED.values():
        remedy = "call the module that has the weights"
    return because(f"is {kind}, which has no spiking counterpart", "", remedy)


def _is_number(trace: Trace, x) -> bool:
    return isinstance(x, numbers.Number) or (isinstance(x, fx.Node) and trace.is_shape(x))


def _summands(node: fx.Node) -> tuple:
    """What a join puts together."""
    return tuple(node.args[0]) if isinstance(node.args[0], list | tuple) else node.args[:2]


def _careless(trace: Trace, node: fx.Node, because) -> Finding | None:
    """Linear operations in the forms that are not: mixing images, or adding what no spike brought."""
    if node.op == "call_function" and trace.is_a(node, tracing.DROPOUTS):
        training = node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True)
        if training is not False:
            return because("drops in evaluation too", "", "pass training=self.training")
    if trace.is_a(node, tracing.PADS):
        mode = node.kwargs.get("mode", node.args[2] if len(node.args) > 2 else "constant")
        value = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else None)
        if node.op == "call_function" and (mode != "constant" or value):
            return because("pads with something else than zeros", "", "pad with zeros")
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    if trace.is_a(node, tracing.SUMS) and (dims is None or 0 in ([dims] if isinstance(dims, int) else dims)):
        return because("runs over all images of a batch", "", "give the dimensions of an image only")
    if trace.is_a(node, tracing.JOINS) and isinstance(node.args[0], list | tuple) and dims in (None, 0):
        return because("joins along the batch", "", "join along the channels, dim=1")
    return None


def _advice(trace: Trace) -> Iterator[Finding]:
    """What converts, but with losses that SN's constraints avoid."""

    def advise(node, what, source, remedy):
        return Finding(name_of(node), place_of(node), what, source, remedy, blocking=False)

    nodes = list(trace.module.graph.nodes)
    junctions = [node for node in nodes if trace.is_a(node, tracing.JOINS) and len(trace.operands(node)) > 1]
    for node in junctions:
        if not _reaches_relu_only(trace, node):
            what = "is a junction without a ReLU behind it: its paths delay spikes differently"
            yield advise(node, what, "SN section 6.1", "put a ReLU after the sum")
    if junctions:
        fork = _fork(trace, junctions[0])
        plain = [node for node in _behind(trace, fork) if trace.is_a(node, tracing.WEIGHTED)] if fork else []
        if fork and len(plain) < PLAIN:
            what = f"is the first junction, behind {len(plain)} plain layer(s)"
            remedy = f"put {PLAIN} plain 3x3 convolutions before the residual part"
            yield advise(junctions[0], what, "SN section 6.3", remedy)
        for node in plain:
            if max(getattr(trace.target(node), "kernel_size", (1,))) > 3:
                yield advise(node, "is a wide kernel", "SN section 6.3", f"use {PLAIN} plain 3x3 convolutions instead")
    for node in junctions:
        yield from (
            advise(layer, "is a shortcut with weights", "SN section 6", "use type A: a stride, and channels of zeros")
            for layer in _projections(trace, node)
        )
    for node in nodes:
        if trace.is_a(node, tracing.DROPOUTS):
            if any(trace.is_a(user, tracing.AVERAGE_POOLS) for user in node.users):
                yield advise(node, "is dropout before a pool", "SN section 7.1", "leave it out there")
            if any(user in junctions for user in node.users):
                remedy = "drop only inside the residual path, before its last convolution"
                yield advise(node, "is dropout at a junction", "SN section 7.1", remedy)


def _projections(trace: Trace, junction: fx.Node) -> list[fx.Node]:
    """The weight layers in paths into `junction` without a ReLU, beside a path that has one."""
    fork = _fork(trace, junction)
    if fork is None:
        return []
    paths = [_behind(trace, operand) - _behind(trace, fork) for operand in trace.operands(junction)]
    bent = [any(trace.is_a(node, tracing.RELUS) for node in path) for path in paths]
    straight = [path for path, has_relu in zip(paths, bent, strict=True) if not has_relu] if any(bent) else []
    return [node for path in straight for node in path if trace.is_a(node, tracing.WEIGHTED)]


def _reaches_relu_only(trace: Trace, node: fx.Node) -> bool:
    """Whether what `node` gives passes a ReLU before it meets a weight layer, another junction or the output."""
    moves = (*tracing.RESHAPES, *tracing.DROPOUTS)
    return all(
        trace.is_shape(user)
        or trace.is_a(user, tracing.RELUS)
        or (trace.is_a(user, moves) and _reaches_relu_only(trace, user))
        for user in node.users
    )


def _fork(trace: Trace, junction: fx.Node) -> fx.Node | None:
    """The last node that all paths into `junction` have in common, if there is one."""
    common = set.intersection(*(_behind(trace, operand) for operand in trace.operands(junction)))
    return next((node for node in reversed(trace.module.graph.nodes) if node in common), None)


def _behind(trace: Trace, node: fx.Node) -> set[fx.Node]:
    """`node` and all nodes that it depends on."""
    behind, open_nodes = set(), [node]
    while open_nodes:
        node = open_nodes.pop()
        if node not in behind:
            behind.add(node)
            open_nodes += trace.operands(node)
    return behind
