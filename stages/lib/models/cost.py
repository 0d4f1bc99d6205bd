"""What work costs, in the words of all stages."""


def cost(seconds: float, memory: int) -> str:
    """Time and memory; `memory` is in bytes."""
    return f"about {duration(seconds)} and {memory / 2**30:.1f} GiB of memory"


def duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds > 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
