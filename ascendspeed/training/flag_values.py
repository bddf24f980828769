"""Values of flags that are more than one number: from Megatron-LM's way to write them to what the settings hold."""

import argparse
import ast

__all__ = ["layer_pattern", "pair_of_keys"]


def pair_of_keys(text: str) -> tuple[int, int]:
    """`127,0` or `(127,0)`; each at least -1."""
    try:
        left, right = (int(number) for number in text.strip().strip("()").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LEFT,RIGHT, two whole numbers") from None
    if min(left, right) < -1:
        raise argparse.ArgumentTypeError(f"{text!r}: a side is a number of keys, or -1 for no bound")
    return left, right


def layer_pattern(text: str) -> int | tuple[int, ...]:
    """`4`, or a list of 0 and 1 that may be joined and repeated: `[1,1,0]*4`, `([1]*3+[0])*2`."""
    try:
        value = _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        value = None
    if isinstance(value, int) and value >= 1:
        return value
    if isinstance(value, list) and value and set(value) <= {0, 1}:
        return tuple(value)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number of layers nor a list of 0 and 1 like [1,1,0]*4")


_MOST_LAYERS = 10_000  # a list that is longer than any model is deep is a slip


def _value(node: ast.expr) -> int | list[int]:
    """Lists, numbers, + of lists and * of a list with a number; ValueError for all else."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.List):
        numbers = [_value(element) for element in node.elts]
        return [number for number in numbers if isinstance(number, int)] if _are_numbers(numbers) else _refuse()
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
            return left + right
        if isinstance(node.op, ast.Mult) and isinstance(left, list) != isinstance(right, list):
            layers, times = (left, right) if isinstance(left, list) else (right, left)
            assert isinstance(layers, list)
            assert isinstance(times, int)
            return layers * times if len(layers) * times <= _MOST_LAYERS else _refuse()
    return _refuse()


def _are_numbers(values: list[int | list[int]]) -> bool:
    return all(isinstance(value, int) for value in values)


def _refuse() -> list[int]:
    raise ValueError
