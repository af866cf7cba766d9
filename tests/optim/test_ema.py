import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trimask.run.ema import ExponentialMovingAverage

NUM_BATCHES = 6


class Toy(pl.LightningModule):
    """A norm with running statistics, a constant and an integer buffer: all that an average can spoil."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.register_buffer("mean", torch.tensor([123.675, 116.28, 103.53]))
        self.register_buffer("index", torch.arange(1000))
        self.validated = []

    def training_step(self, batch, batch_index):
        """On rows drawn from the step: what a loader gives after a resume is not the question here."""
        rows = torch.randn(4, 4, generator=torch.Generator().manual_seed(self.global_step))
        return self.network(rows).square().mean()

    def validation_step(self, batch, batch_index):
        self.validated.append(self.network[0].weight.detach().clone())
        if getattr(self, "fails_in_validation", False):
            raise RuntimeError("stopped in validation")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(NUM_BATCHES)))

    val_dataloader = train_dataloader


def fit(folder, *, max_steps=-1, max_epochs=-1, resume=None, every=4, callback=None, module=None, **settings):
    module, callback = module or Toy(), callback or ExponentialMovingAverage(0.9)
    saver = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=every, save_top_k=-1)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        max_epochs=max_epochs,
        callbacks=[callback, saver],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1,
        **settings,
    )
    trainer.fit(module, ckpt_path=resume)
    return trainer, module


def saved(path):
    return torch.load(path, weights_only=True)


def assert_same_weights(one, other):
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert one[key].keys() == other[key].keys()
        for name, value in one[key].items():
            assert torch.equal(value, other[key][name]), (key, name)


@pytest.mark.parametrize("interrupted_at", [4, 8])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, interrupted_at):
    """In the middle of the first epoch, and in the second after a validation."""
    fit(tmp_path / "whole", max_steps=16)
    fit(tmp_path / "first", max_steps=interrupted_at)
    fit(tmp_path / "rest", max_steps=16, resume=tmp_path / "first" / f"step={interrupted_at}.ckpt")
    whole, resumed = (saved(tmp_path / name / "step=16.ckpt") for name in ("whole", "rest"))
    assert_same_weights(whole, resumed)
    assert whole["averaging_state"]["n_averaged"] == 16
    raw, average = whole["current_model_state"], whole["state_dict"]
    assert not torch.equal(raw["network.0.weight"], average["network.0.weight"])


def test_equals_the_formula_with_its_warmup(tmp_path):
    fit(tmp_path, max_steps=5, every=1)
    average = None
    for step in range(5):
        current = saved(tmp_path / f"step={step + 1}.ckpt")["current_model_state"]["network.0.weight"]
        decay = min(0.9, (1 + step) / (10 + step))
        average = current if average is None else decay * average + (1 - decay) * current
    torch.testing.assert_close(saved(tmp_path / "step=5.ckpt")["state_dict"]["network.0.weight"], average)


def test_without_warmup_the_decay_is_the_one_given(tmp_path):
    fit(tmp_path, max_steps=2, every=1, callback=ExponentialMovingAverage(0.9, warmup=False))
    one, two = (saved(tmp_path / f"step={step}.ckpt") for step in (1, 2))
    name = "network.0.weight"
    expected = 0.9 * one["current_model_state"][name] + 0.1 * two["current_model_state"][name]
    torch.testing.assert_close(two["state_dict"][name], expected)


def test_running_statistics_are_averaged_and_constants_are_kept(tmp_path):
    fit(tmp_path, max_steps=12)
    state = saved(tmp_path / "step=12.ckpt")
    average, raw = state["state_dict"], state["current_model_state"]
    assert not torch.equal(average["network.1.running_mean"], raw["network.1.running_mean"])
    assert torch.equal(average["mean"], torch.tensor([123.675, 116.28, 103.53]))
    assert torch.equal(average["index"], torch.arange(1000))
    assert average["network.1.num_batches_tracked"] == 12


def test_validation_sees_the_average_and_training_goes_on_with_the_raw_weights(tmp_path):
    _, module = fit(tmp_path, max_epochs=1, every=NUM_BATCHES)
    state = saved(tmp_path / f"step={NUM_BATCHES}.ckpt")
    assert torch.equal(module.validated[-1], state["state_dict"]["network.0.weight"])
    assert not torch.equal(module.validated[-1], state["current_model_state"]["network.0.weight"])


def test_a_finished_module_holds_the_average_and_its_checkpoint_can_be_continued(tmp_path):
    trainer, module = fit(tmp_path / "first", max_epochs=2, every=NUM_BATCHES)
    last = saved(tmp_path / "first" / "step=12.ckpt")
    assert torch.equal(module.network[0].weight, last["state_dict"]["network.0.weight"])
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert_same_weights(saved(tmp_path / "after.ckpt"), last)
    trainer.validate(module, verbose=False)
    assert torch.equal(module.validated[-1], last["state_dict"]["network.0.weight"])


def test_a_checkpoint_from_within_validation_has_raw_and_average_in_their_places(tmp_path):
    module = Toy()
    module.fails_in_validation = True

    class SavesOnException(pl.Callback):
        def on_exception(self, trainer, pl_module, exception):
            trainer.save_checkpoint(tmp_path / "exception.ckpt")

    callback = ExponentialMovingAverage(0.9)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[callback, SavesOnException()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with pytest.raises(RuntimeError, match="stopped in validation"):
        trainer.fit(module)
    fit(tmp_path / "calm", max_steps=NUM_BATCHES, every=NUM_BATCHES)
    assert_same_weights(saved(tmp_path / "exception.ckpt"), saved(tmp_path / "calm" / f"step={NUM_BATCHES}.ckpt"))


def test_a_decay_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.1"):
        ExponentialMovingAverage(1.5)
