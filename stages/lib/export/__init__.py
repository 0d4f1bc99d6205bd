"""The formats of other programs that a trained model can be written in, one module each."""

from collections.abc import Mapping

from stages.lib.export import adapter_folder, ctranslate2_folder, gguf_file, onnx_folder
from stages.lib.export.interface import Format

FORMATS: Mapping[str, Format] = {
    "gguf": gguf_file.FORMAT,
    "ctranslate2": ctranslate2_folder.FORMAT,
    "onnx": onnx_folder.FORMAT,
    "adapter": adapter_folder.FORMAT,
}
