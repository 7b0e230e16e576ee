"""Makes the model after the last epoch: kept weights, second stage, calibration, thresholds and model folder."""

from dataclasses import replace
from pathlib import Path

from hilum.cohorts.dataset import SplitCohort
from hilum.deciding.fit_decisions import HeldOut
from hilum.deciding.model_folder import save_model
from hilum.deciding.tta import views_of
from hilum.modelling.speed import EXACT, for_prediction
from hilum.training.card import model_card
from hilum.training.epoch import Learner, validate
from hilum.training.gate import gate_of_run
from hilum.training.part_loader import PartLoader
from hilum.training.run_folder import Run
from hilum.training.second_stage import retrain_head
from hilum.training.state import TrainingState


def finish(
    learner: Learner, state: TrainingState, data: SplitCohort, train: PartLoader, val: PartLoader, run: Run
) -> Path:
    """Make the model of a run from its last state; returns the model folder.

    Args:
        learner: The learner of the run.
        state: The state after the last epoch.
        data: The cases and their parts.
        train: The training part, on which the second stage is fitted, if any.
        val: The validation part, on which calibration and thresholds are fitted.
        run: The run, whose model is written.
    """
    config, network = learner.config, state.kept.network
    epoch = state.kept_epoch(config.training.keep)
    if config.training.keep == "best":
        network.load_state_dict(state.best)
    else:
        state.kept.after_epoch()  # a resumed run may have no epoch left
    if config.head.retrain != "none":
        retrain_head(network, train.dataset, config, learner.fabric.device)
    views = views_of(config)
    predicting = for_prediction(network, EXACT)  # bit for bit as in prediction
    _, logits = validate(learner, val, views=views, model=predicting)
    learner.tracker.show_most_wrong(val.dataset, logits)
    learner.tracker.plot(epoch)
    about = {"epoch": epoch, "split": run.split_digest, **state.progress.began}
    patients = tuple(val.dataset.prepared.cases[i].patient_id for i in val.dataset.indices)
    held_out = HeldOut(labels=val.dataset.labels, logits=logits, patients=patients, chose_epoch=True)
    card = model_card(config, data, train.cases_of(epoch), held_out, views, about)
    gate, statistics = gate_of_run(predicting, train.dataset, val.dataset, config, learner.fabric.device)
    save_model(run.model, network, replace(card, gate=gate), statistics)
    return run.model
