"""Tokenizers of kinds that real checkpoints have, trained on a few sentences."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, trainers


def sentencepiece_bpe(texts: Iterable[str], size: int) -> Tokenizer:
    """BPE with byte fallback and a blank before every text, as Llama 2 and Mistral have it."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=first, max_token_length=7, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return backend
