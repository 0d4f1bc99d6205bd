"""The precision for a machine."""

import pytest
import torch

from stages.lib.core.process import UserError
from stages.lib.models import devices


@pytest.mark.parametrize(
    ("precision", "is_native", "expected"),
    [("float32", True, False), ("auto", True, True), ("auto", False, False), ("bfloat16", True, True)],
)
def test_auto_chooses_bfloat16_where_it_is_native(
    precision: str, is_native: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_has_bfloat16", lambda: is_native)
    assert devices.uses_bfloat16(precision) is expected


def test_emulated_bfloat16_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_has_bfloat16", lambda: False)
    with pytest.raises(UserError, match=r"fit -> precision: bfloat16 would be emulated here.+ set float32, or auto"):
        devices.uses_bfloat16("bfloat16")


@pytest.mark.parametrize("flags", [["avx512_bf16"], ["amx_bf16"], ["arm_bf16"]])
def test_native_bfloat16_is_read_from_the_flags_of_the_processor(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx2": True, flags[0]: has})
        assert devices._has_bfloat16() is has
