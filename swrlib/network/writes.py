"""What an operation in place writes into, beside the value that it is called with."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from swrlib.network.operations import OPERATIONS, called

#: They may return what lies in the memory of their input; of what only moves entries, all but …
_SHARING = {"contiguous", "detach", "identity", "to", "type", "float", "double", "alias"}
#: … these, which copy.
_COPIES = {"roll", "flip", "fliplr", "flipud", "rot90", "repeat", "tile", "gather", "index"}
_COPIES |= {"indexselect", "pixelshuffle", "pixelunshuffle", "takealongdim"}


def read_later(node: fx.Node, seen: Iterable[fx.Node]) -> list[fx.Node]:
    """Return what may lie in the memory that an operation writes into and is read after it.

    Parameters
    ----------
    node : torch.fx.Node
        The operation.
    seen : iterable of torch.fx.Node
        All up to it.
    """
    if not (node.args and isinstance(node.args[0], fx.Node)):
        return []
    seen, source = dict.fromkeys(seen), _origin(node.args[0])
    return [
        other
        for other in seen
        if other is not node
        and _origin(other) is source
        and any(user not in seen for user in other.users)
    ]


def _origin(node: fx.Node) -> fx.Node:
    """Return what a value is a view of, perhaps through others; itself where it is none."""
    while node.op in ("call_function", "call_method") and isinstance(node.args[0], fx.Node):
        name = called(node)
        does = OPERATIONS.get(name)
        places = does is not None and does.role == "places" and name not in _COPIES
        if not (places or name in _SHARING):
            break
        node = node.args[0]
    return node


def fills_constant(node: fx.Node, in_place: bool) -> bool:
    """Return whether an operation writes into what is read later and `torch.fx` calls a constant.

    A tensor that the forward pass makes is made to be read, and may be made of one that was written
    into; a buffer may only take an average.
    """
    filled = node.args[0] if node.args else None
    writes = in_place or called(node) == "setitem"
    if not (writes and isinstance(filled, fx.Node) and filled.op == "get_attr"):
        return False
    nodes = [*node.graph.nodes]
    later = [str(n.target) for n in nodes[nodes.index(node) :] if n.op == "get_attr"]
    made = [name.startswith("_tensor_constant") for name in (str(filled.target), *later)]
    return any(made) or str(filled.target) in later
