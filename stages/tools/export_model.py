"""Writes the trained model into a folder, complete for plain transformers, a hub or a server:
`python -m stages.tools.export_model FOLDER`.

Beside weights and tokenizer, it holds the decoding (generation_config.json), the prompt (the chat template of a causal
model, and prompt.json), the settings that made it (settings.json), the license of the base model and the model card.
docs/using.md shows how to ask it. An adapter is merged into its base, in the precision of the base.
"""

from pathlib import Path

from stages.lib.core.process import launch
from stages.tools.arguments import parser_of


def main() -> None:
    parser = parser_of("export_model", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new one, or an empty one")
    export(parser.parse_args().folder)


def export(target: Path) -> None:
    """
    Raises:
        UserError: as `write_folder` does.
    """
    # heavy: not before the command line is known to be right
    from stages.lib.inference.folder import write_folder
    from stages.lib.inference.trained import DATA, TRAINED, base_of_run, run_settings

    for note in write_folder(run_settings(), base_of_run(), TRAINED, DATA / "evaluate/README.md", target):
        print(note)
    sizes = [path.stat().st_size for path in target.rglob("*") if path.is_file()]
    print(f"{target}: {len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB")


if __name__ == "__main__":
    launch(main)
