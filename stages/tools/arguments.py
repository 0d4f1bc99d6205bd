"""The command line of a tool."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter


def parser_of(tool: str, documentation: str | None) -> ArgumentParser:
    """Its help is the documentation of its module: the first paragraph before the arguments, the rest after them."""
    description, _, rest = (documentation or "").partition("\n\n")
    return ArgumentParser(
        prog=f"python -m stages.tools.{tool}",
        description=description,
        epilog=rest,
        formatter_class=RawDescriptionHelpFormatter,
    )
