"""transformers without torch, which takes seconds to import, and which tokenizers and configurations do not need."""

import os
import sys


def import_transformers_without_torch() -> None:
    """To be called before anything else imports transformers, in a process that needs no network.

    transformers asks once whether torch is there, and remembers the answer. It has no switch for that.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that torch was not found
    sys.modules["torch"] = None  # type: ignore[assignment]
    from transformers.utils.import_utils import is_torch_available

    assert not is_torch_available()
    del sys.modules["torch"]
