"""Hooks of modules, which a trace steps over where it takes a module for one operation."""

from __future__ import annotations

import dis
import functools
import inspect
from typing import Any

from torch import nn
from torch.nn.modules import module as every

#: Methods of containers that return None.
RECORDING = ("append", "appendleft", "extend", "insert", "update", "__setitem__", "put")


def changing_hook(module: nn.Module) -> str:
    """Return the name of a hook that may change what a module takes or returns; empty without one.

    Only one that returns something can, unless it writes in place. Hooks of all modules count.
    """
    of_all = every._global_forward_pre_hooks, every._global_forward_hooks
    places = *of_all, module._forward_pre_hooks, module._forward_hooks
    hooks = [hook for place in places for hook in place.values()]
    names = (getattr(h, "__qualname__", type(h).__name__) for h in hooks if not _only_watches(h))
    return next(names, "")


def _only_watches(hook: Any) -> bool:
    """Return whether a function returns None, whatever happens, as its code shows."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    hook = inspect.unwrap(hook)  # under @torch.no_grad(), say
    code = getattr(hook, "__code__", None) or getattr(type(hook).__call__, "__code__", None)
    if code is None:  # built in
        return False
    instructions = list(dis.get_instructions(code))
    for before, last in zip([None, *instructions], instructions, strict=False):
        constant = last if last.opname == "RETURN_CONST" else before
        if last.opname.startswith("RETURN_") and last.opname != "RETURN_GENERATOR":
            loads = constant is not None and constant.opname in ("LOAD_CONST", "RETURN_CONST")
            if not (loads and constant is not None and constant.argval is None):
                return _records(instructions)
    return True


def _records(instructions: list[dis.Instruction]) -> bool:
    """Return whether a function is one call of a method that keeps something and returns None.

    As ``lambda module, inputs, output: kept.append(output)`` is. The method that is called last
    was loaded where nothing but its object lay on the stack; its arguments came on top of it.
    """
    *_, before, last = instructions
    if (before.opname, last.opname) != ("CALL", "RETURN_VALUE"):
        return False
    depth, called, returns = 0, "", 0
    for instruction in instructions:
        returns += instruction.opname.startswith("RETURN_")
        if "JUMP" in instruction.opname or instruction.opname.startswith(("POP_", "STORE_")):
            return False  # more than one expression
        depth += dis.stack_effect(instruction.opcode, instruction.arg)
        if instruction.opname in ("LOAD_METHOD", "LOAD_ATTR") and depth == 2:
            called = str(instruction.argval)
    return returns == 1 and called in RECORDING
