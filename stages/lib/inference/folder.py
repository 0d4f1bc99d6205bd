"""The folder of an exported model, complete for plain transformers: weights, tokenizer, decoding, prompt, settings,
license and card."""

import os
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import GenerationConfig

from stages.lib.checkpoint.config import read_config
from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.files import write_json, write_text
from stages.lib.core.process import UserError
from stages.lib.generation.settings import generation_config
from stages.lib.inference.plain_prompt import PROMPT, PlainPrompt, plain_prompt
from stages.lib.inference.settings import SETTINGS, Settings
from stages.lib.models.loading import is_adapter, trained_model
from stages.lib.params.model import Model

_LICENSES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")  # as files of a checkpoint are called
_GENERATION = "generation_config.json"


def write_folder(settings: Settings, base: Model, trained: Path, card: Path, target: Path) -> list[str]:
    """Returns what the user should know. The folder appears only if all of it could be written.

    Args:
        base: the model before training, whose license holds for what it became.
        trained: the folder of train, with model/ and adapter/.
        card: becomes README.md.

    Raises:
        UserError: there is no model or no card, the folder holds something, or an adapter's base can't be loaded.
    """
    if missing := next((path for path in (trained / "model", card) if not path.exists()), None):
        raise UserError(f"{missing}: not there; run `make repro`, or `dvc checkout` if it has been made")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: is there already; name a new folder, or an empty one")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as beside:
        folder = Path(beside) / "model"
        if is_adapter(trained):
            write_merged(base, trained, folder)
        else:
            shutil.copytree(trained / "model", folder)
        for weights in folder.glob("*.safetensors"):  # which safetensors lets nobody else read, such as a server
            shutil.copymode(folder / "config.json", weights)
        prompt = _write_ways_to_ask(settings, trained, folder)
        write_json(folder / SETTINGS, settings.as_json())
        write_text(folder / "README.md", _with_license(card.read_text("utf-8"), base, folder))
        os.replace(folder, target)
    if prompt.is_exact:
        return []
    asks = f"`python -m stages.tools.generate {target}` can"
    return [f"{target}: plain transformers can't ask this model with the very tokens of training; {asks}"]


def write_merged(base: Model, trained: Path, target: Path) -> None:
    """The weights of an adapter and its base as one model, in the precision of the base, with its tokenizer."""
    network: Any = trained_model(base, trained)
    network.to(dtype=read_config(base).dtype or torch.float32)
    network.save_pretrained(target)
    load_tokenizer(trained / "model").save_pretrained(target)


def _write_ways_to_ask(settings: Settings, trained: Path, target: Path) -> PlainPrompt:
    """The decoding, the tokenizer and the prompt."""
    if (target / _GENERATION).is_file():  # a classifier has none
        generation_config(GenerationConfig.from_pretrained(target), settings.predict).save_pretrained(target)
    tokenizer = load_tokenizer(trained / "model")
    prompt = plain_prompt(tokenizer, settings)
    prompt.apply(tokenizer)
    tokenizer.save_pretrained(target)
    write_json(target / PROMPT, prompt.as_json(settings))
    return prompt


def _with_license(card: str, base: Model, target: Path) -> str:
    """The card with the license of the base model, whose files are copied into the folder."""
    if base.scratch is not None:
        return card
    source = _public_files(base)
    if source is None:
        return f"{card}\n## License\n\nThat of the base model, {base.public_name}: see its page on the hub.\n"
    files = sorted(path for pattern in _LICENSES for path in source.glob(pattern))
    for path in files:
        shutil.copyfile(path, target / path.name)
    stated = _stated_license(source / "README.md")
    if stated is not None:
        card = card.replace("---\n", f"---\nlicense: {stated}\n", 1)
    names = f"; see {', '.join(path.name for path in files)}" if files else ""
    found = f"{stated or 'its card states none'}{names}"
    return f"{card}\n## License\n\nThat of the base model, {base.public_name}: {found}.\n"


def _public_files(base: Model) -> Path | None:
    """A folder with card and licence of the checkpoint; None where the hub can't be reached."""
    if base.hub_name is None:
        return Path(base.folder)
    try:
        return Path(snapshot_download(base.hub_name, revision=base.revision, allow_patterns=["README.md", *_LICENSES]))
    except OSError:
        return None


def _stated_license(card: Path) -> str | None:
    """Of the metadata at the head of a model card."""
    head = re.match(r"---\n.*?\n---", card.read_text("utf-8"), re.DOTALL) if card.is_file() else None
    found = re.search(r"^license: *['\"]?([\w.+-]+)", head[0], re.MULTILINE) if head else None
    return found[1] if found else None
