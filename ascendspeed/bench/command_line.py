"""The parser's class and the kinds of numbers it takes: a mistake is one line that names flag, value and rule."""

import argparse
from typing import NoReturn

from ascendspeed.training.mistakes import Mistake

__all__ = ["Parser", "count", "seconds"]


class Parser(argparse.ArgumentParser):
    """argparse that raises `Mistake` where it would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise Mistake(message)


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def seconds(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value
