"""The model before training -> predictions for the test split, which show what training gains.

Reads:  data/prepare/test/ (the texts), data/tokenize/test/, tokenizer/ and label_ids.json (the ids), or those of the
        alternative that data/tune_hyperparameters/model.json names; the base model; with `predict.general_text`, the
        texts of its folder.
Writes: data/predict_base/predictions.jsonl, one prediction a line, and where it is asked for, general_text.jsonl, the
        loss on each window of the general texts; none where `predict_base.enabled` is false.
Random: sampling, by `predict.seed` and the id of the example; weights that the checkpoint lacks, by `fit.seed`.
"""

from pathlib import Path

from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.params import read_section
from stages.lib.core.process import is_main_process, launch
from stages.lib.generation.plain_texts import general_text_losses
from stages.lib.generation.predicting import place_for_predicting, predictions_of
from stages.lib.models.devices import configure_gpu
from stages.lib.models.loading import base_model
from stages.lib.params.fit import Fit
from stages.lib.params.machine import Machine
from stages.lib.params.model import Model, chosen_model, prediction_folder
from stages.lib.params.predict import Predict
from stages.lib.params.predict_base import PredictBase
from stages.lib.records.predictions import write_predictions
from stages.lib.records.text_losses import write_window_losses
from stages.lib.records.tokenized_examples import read_label_ids
from stages.lib.training.distributed import launch_distributed
from stages.lib.training.resume import resumable_state

TEXTS = Path("data/prepare/test")
IDS = Path("data/tokenize")
CHOICE = Path("data/tune_hyperparameters/model.json")
TARGET = Path("data/predict_base")


def main() -> None:
    if not read_section(PredictBase).enabled:
        write_predictions(TARGET / "predictions.jsonl", [])
        print("predict-base: switched off (predict_base.enabled)")
        return
    machine = read_section(Machine)
    with resumable_state("predict-base") as folder:
        if not launch_distributed("stages.predict_base", "predict_processes", machine.predict_processes):
            configure_gpu()
            name, model = chosen_model(read_section(Model), CHOICE)
            places = TEXTS, prediction_folder(IDS, name), TARGET, folder
            run(read_section(Predict), model, machine, read_section(Fit).seed, *places)


def run(
    params: Predict, model: Model, machine: Machine, seed: int, texts: Path, ids: Path, target: Path, folder: Path
) -> None:
    """Predicts, and writes. Of several processes that share the texts, the main one writes.

    Args:
        seed: of random weights.
        folder: of the resumable state.
    """
    tokenizer = load_tokenizer(ids / "tokenizer")
    labels = [label.word for label in read_label_ids(ids / "label_ids.json")]
    network = base_model(model, tokenizer, labels, dropout=None, seed=seed)
    place_for_predicting(network, params, "predict-base")
    batch_tokens = machine.generation_batch_tokens
    general = general_text_losses(network, tokenizer, model, params, batch_tokens, folder, "predict-base")
    predictions = predictions_of(network, tokenizer, texts, ids, params, batch_tokens, folder, "predict-base").test
    if not is_main_process():
        return
    if general:
        write_window_losses(target / "general_text.jsonl", general)
    write_predictions(target / "predictions.jsonl", predictions)
    print(f"predict-base: {len(predictions):,} predictions -> {target}")


if __name__ == "__main__":
    launch(main)
