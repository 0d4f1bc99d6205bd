"""How much processor time a stage takes until it can work: `python -m tests.benchmarks.start_up`.

Each stage is imported in a process of its own, in turn with `import torch` and transformers' Trainer alone, which is
the least that a stage with a network can take.
"""

import os
import resource
import statistics
import subprocess
import sys

ROUNDS = 5
PROGRAMS = {
    **{
        stage: f"import sys; sys.argv[0] = '-m'; import stages.{stage}"
        for stage in ("prepare", "tokenize", "tune_hyperparameters", "train", "predict_base", "predict", "evaluate")
    },
    "tokenize, as started": "import runpy; runpy.run_module('stages.tokenize', run_name='__main__')",
    "torch alone": "import torch",
    "Trainer alone": "from transformers import Trainer",
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(ROUNDS):
        for name, program in PROGRAMS.items():
            seconds[name].append(processor_seconds(program))
    for name, own in seconds.items():
        print(f"{name:<24}{statistics.median(own):6.2f} s of processor time, median of {ROUNDS}")


def processor_seconds(program: str) -> float:
    """Of a process that ends right behind its imports, without Python's own clean-up."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = f"import os\ntry:\n    exec({program!r})\nexcept SystemExit: pass\nos._exit(0)"
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", whole], cwd="/", env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
