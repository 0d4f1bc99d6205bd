"""The command line of a tool."""

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter


def parser_of(tool: str, documentation: str | None) -> ArgumentParser:
    """Its help is the documentation of its module: the first paragraph before the arguments, the rest after them."""
    description, _, rest = (documentation or "").partition("\n\n")
    return ArgumentParser(
        prog=f"python -m stages.tools.{tool}",
        description=description,
        epilog=rest,
        formatter_class=RawDescriptionHelpFormatter,
    )


def positive(text: str) -> int:
    """The type of an argument that is a number of things, 1 or more."""
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"`{text}` is no number from 1 on")
    return int(text)
