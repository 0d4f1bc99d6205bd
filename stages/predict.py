"""The trained model -> predictions for the test split, and for validation where a scenario wants them.

Reads:  data/prepare/test/ (the texts), data/tokenize/test/, label_ids.json and no_input.json (the ids), or those of the
        alternative that data/tune_hyperparameters/model.json names; data/train/model/ and adapter/, and the base model
        of an adapter; with `predict.validation`, data/prepare/validation/ and data/tokenize/validation_answers/; with
        `predict.general_text`, the texts of its folder, and with `predict.fluency_model`, that one.
Writes: data/predict/predictions.jsonl, one prediction a line; no_input.json: what the model writes where the source is
        empty; settings.json: how it was decoded; and where they are asked for, validation.jsonl, the predictions for
        validation, general_text.jsonl, the loss on each window of the general texts, and fluency.jsonl, that of another
        model on each prediction.
Random: only sampling, by `predict.seed` and the id of the example.
"""

from pathlib import Path

from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.files import read_json, write_json
from stages.lib.core.params import read_section
from stages.lib.core.process import is_main_process, launch
from stages.lib.generation.language_model import fluency_model
from stages.lib.generation.plain_texts import fluency_losses, general_text_losses
from stages.lib.generation.predicting import place_for_predicting, predictions_of
from stages.lib.models.devices import configure_gpu
from stages.lib.models.loading import trained_model
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model, chosen_model, prediction_folder
from stages.lib.params.predict import Predict
from stages.lib.records.predictions import write_predictions
from stages.lib.records.text_losses import write_fluency, write_window_losses
from stages.lib.records.tokenized_examples import read_label_ids
from stages.lib.training.distributed import launch_distributed
from stages.lib.training.resume import resumable_state

TEXTS = Path("data/prepare/test")
VALIDATION = Path("data/prepare/validation")
IDS = Path("data/tokenize")
CHOICE = Path("data/tune_hyperparameters/model.json")
TRAINED = Path("data/train")
TARGET = Path("data/predict")


def main() -> None:
    machine = read_section(Machine)
    with resumable_state("predict") as folder:
        if not launch_distributed("stages.predict", "predict_processes", machine.predict_processes):
            configure_gpu()
            name, model = chosen_model(read_section(Model), CHOICE)
            params, ids = read_section(Predict), prediction_folder(IDS, name)
            validation = VALIDATION if params.validation else None
            run(params, model, machine, TEXTS, ids, TRAINED, TARGET, folder, validation)


def run(
    params: Predict,
    base: Model,
    machine: Machine,
    texts: Path,
    ids: Path,
    trained: Path,
    target: Path,
    folder: Path,
    validation: Path | None = None,
) -> None:
    """Predicts, and writes. Of several processes that share the texts, the main one writes.

    Args:
        texts: folder of the test split's examples.
        folder: of the resumable state.
        validation: folder of the validation split's examples; None: they are not predicted.
    """
    is_free_text = not read_label_ids(ids / "label_ids.json")
    other = fluency_model(base, params) if is_free_text else None
    network, tokenizer = trained_model(base, trained), load_tokenizer(trained / "model")
    place_for_predicting(network, params, "predict")
    batch_tokens, no_input = machine.generation_batch_tokens, read_json(ids / "no_input.json")["source_ids"]
    general = general_text_losses(network, tokenizer, base, params, batch_tokens, folder, "predict")
    predictions, on_validation, without_input = predictions_of(
        network, tokenizer, texts, ids, params, batch_tokens, folder, "predict", no_input, validation
    )
    if not is_main_process():
        return
    if general:
        write_window_losses(target / "general_text.jsonl", general)
    if other:
        del network  # its memory is needed
        write_fluency(target / "fluency.jsonl", fluency_losses(predictions, other, params, batch_tokens, folder))
    write_predictions(target / "predictions.jsonl", predictions)
    if validation:
        write_predictions(target / "validation.jsonl", on_validation)
    write_json(target / "no_input.json", {"prediction": without_input})
    write_json(target / "settings.json", params.model_dump(mode="json"))
    unfinished = sum(prediction.finish_reason == "length" for prediction in predictions)
    print(f"predict: {len(predictions):,} predictions, {unfinished:,} of them never ended -> {target}")


if __name__ == "__main__":
    launch(main)
