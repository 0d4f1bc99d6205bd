"""The trained model -> predictions for the test split.

Reads:  data/prepare/test/ (the texts), data/tokenize/test/, label_ids.json and no_input.json (the ids), or those of the
        alternative that data/tune_hyperparameters/model.json names; data/train/model/ and adapter/, and the base model
        of an adapter.
Writes: data/predict/predictions.jsonl, one prediction a line; no_input.json: what the model writes where the source is
        empty; settings.json: how it was decoded.
Random: only sampling, by `predict.seed` and the source.
"""

from pathlib import Path

from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.files import write_json
from stages.lib.core.params import read_section
from stages.lib.core.process import launch
from stages.lib.generation.predicting import prediction_without_input, predictions_of
from stages.lib.models.devices import configure_gpu
from stages.lib.models.loading import trained_model
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model, chosen_model, prediction_folder
from stages.lib.params.predict import Predict
from stages.lib.records.predictions import write_predictions

TEXTS = Path("data/prepare/test")
IDS = Path("data/tokenize")
CHOICE = Path("data/tune_hyperparameters/model.json")
TRAINED = Path("data/train")
TARGET = Path("data/predict")


def main() -> None:
    configure_gpu()
    name, model = chosen_model(read_section(Model), CHOICE)
    sections = read_section(Predict), model, read_section(Machine)
    run(*sections, texts=TEXTS, ids=prediction_folder(IDS, name), trained=TRAINED, target=TARGET)


def run(params: Predict, base: Model, machine: Machine, texts: Path, ids: Path, trained: Path, target: Path) -> None:
    network, tokenizer = trained_model(base, trained), load_tokenizer(trained / "model")
    predictions = predictions_of(network, tokenizer, texts, ids, params, machine.generation_batch_size, "predict")
    write_predictions(target / "predictions.jsonl", predictions)
    without_input = prediction_without_input(network, tokenizer, ids, params)
    write_json(target / "no_input.json", {"prediction": without_input})
    write_json(target / "settings.json", params.model_dump(mode="json"))
    unfinished = sum(prediction.finish_reason == "length" for prediction in predictions)
    print(f"predict: {len(predictions):,} predictions, {unfinished:,} of them never ended -> {target}")


if __name__ == "__main__":
    launch(main)
