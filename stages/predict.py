"""The trained model -> predictions for the test split.

Reads:  data/prepare/test/ (the texts), data/tokenize/test/, label_ids.json and no_input.json (the ids), or those of the
        alternative that data/tune_hyperparameters/model.json names; data/train/model/ and adapter/, and the base model
        of an adapter.
Writes: data/predict/predictions.jsonl, one prediction a line; no_input.json: what the model writes where the source is
        empty; settings.json: how it was decoded.
Random: only sampling, by `predict.seed` and the id of the example.
"""

from pathlib import Path

from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.files import read_json, write_json
from stages.lib.core.params import read_section
from stages.lib.core.process import is_main_process, launch
from stages.lib.generation.predicting import predictions_of
from stages.lib.models.devices import configure_gpu
from stages.lib.models.loading import trained_model
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model, chosen_model, prediction_folder
from stages.lib.params.predict import Predict
from stages.lib.records.predictions import write_predictions
from stages.lib.training.distributed import launch_distributed
from stages.lib.training.resume import resumable_state

TEXTS = Path("data/prepare/test")
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
            run(read_section(Predict), model, machine, TEXTS, prediction_folder(IDS, name), TRAINED, TARGET, folder)


def run(
    params: Predict, base: Model, machine: Machine, texts: Path, ids: Path, trained: Path, target: Path, folder: Path
) -> None:
    """Predicts, and writes. Of several processes that share the texts, the main one writes.

    Args:
        folder: of the resumable state.
    """
    network, tokenizer = trained_model(base, trained), load_tokenizer(trained / "model")
    batch_tokens, no_input = machine.generation_batch_tokens, read_json(ids / "no_input.json")["source_ids"]
    predictions, without_input = predictions_of(
        network, tokenizer, texts, ids, params, batch_tokens, folder, "predict", no_input
    )
    if not is_main_process():
        return
    write_predictions(target / "predictions.jsonl", predictions)
    write_json(target / "no_input.json", {"prediction": without_input})
    write_json(target / "settings.json", params.model_dump(mode="json"))
    unfinished = sum(prediction.finish_reason == "length" for prediction in predictions)
    print(f"predict: {len(predictions):,} predictions, {unfinished:,} of them never ended -> {target}")


if __name__ == "__main__":
    launch(main)
