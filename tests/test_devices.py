"""Which precision a machine gets."""

import pytest
import torch

from stages.lib import devices
from stages.lib.process import UserError


@pytest.mark.parametrize(
    ("precision", "native", "wanted"),
    [("float32", True, False), ("auto", True, True), ("auto", False, False), ("bfloat16", True, True)],
)
def test_auto_takes_bfloat16_where_it_is_native(
    precision: str, native: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_has_bfloat16", lambda: native)
    assert devices.bfloat16_wanted(precision) is wanted


def test_emulated_bfloat16_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_has_bfloat16", lambda: False)
    with pytest.raises(UserError, match=r"fit -> precision: bfloat16 would be emulated here.+ set float32, or auto"):
        devices.bfloat16_wanted("bfloat16")


@pytest.mark.parametrize("flags", [["avx512_bf16"], ["amx_bf16"], ["arm_bf16"]])
def test_the_processor_is_asked(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx2": True, flags[0]: has})
        assert devices._has_bfloat16() is has
