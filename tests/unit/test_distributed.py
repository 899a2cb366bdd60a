"""Two processes of torchrun, with gloo, train as one does; their checkpoints load anywhere.

Started by torchrun, this file is what each of the two processes runs.
"""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

from llmr_ref import distributed
from llmr_ref.checkpoints import latest_checkpoint, list_checkpoints, save_checkpoint
from llmr_ref.config import TransformerConfig
from llmr_ref.data import IGNORE, get_batch
from llmr_ref.distributed import (
    OneProcess,
    SeveralProcesses,
    load_weights,
    processes,
    read_progress,
    resolve_device,
)
from llmr_ref.optim import AdamW
from llmr_ref.trainer import Trainer, train
from llmr_ref.training import TrainingConfig
from llmr_ref.transformer import Transformer

V = 13
TOKENS = torch.randint(V, (500,), generator=torch.Generator().manual_seed(3))
HELD_OUT = torch.randint(V, (100,), generator=torch.Generator().manual_seed(4))
CONFIG = TrainingConfig(
    steps=4,
    batch_size=8,
    length=6,
    accumulation=2,
    max_lr=1e-2,
    eval_every=2,
    eval_batches=3,
    checkpoint_every=2,
    clip=0.6,
    device="cpu",
)
# Sums of float64 in another order; the losses are about 2.6.
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def model(dtype=torch.float64, **changes):
    torch.manual_seed(1)
    config = TransformerConfig(V, 8, 2, 2, max_length=6, tie_embeddings=True, **changes)
    return Transformer(config, dtype=dtype)


def padded(generator):
    """The two processes have very different numbers of targets."""
    inputs, targets = get_batch(TOKENS, 8, 6, generator=generator)
    targets = targets.clone()
    for row, length in enumerate((6, 5, 6, 6, 1, 0, 2, 1)):
        targets[row, length:] = IGNORE
    return inputs, targets


def trained(data=TOKENS, dtype=torch.float64, **options):
    records = []
    outcome = train(
        model(dtype), data, CONFIG, validation=HELD_OUT, callbacks=[records.append], **options
    )
    assert outcome.finished
    return {
        "losses": [record.loss for record in records],
        "norms": [record.grad_norm for record in records],
        "validation": [r.evaluation.loss for r in records if r.evaluation is not None],
        "n_tokens": outcome.evaluation.n_tokens,
    }


# --- what each of the two processes does --------------------------------------------------------


def in_each_process(folder, parallel):
    torch.set_num_threads(1)
    with processes(parallel, "cpu") as (group, device):
        options = {"processes": group, "device": device}
        found = {
            parallel: trained(folder=folder / parallel, **options),
            f"{parallel} padded": trained(padded, **options),
            f"{parallel} float32": trained(dtype=torch.float32, **options),
            f"{parallel} resumed": trained(
                folder=folder / f"one {parallel}", resume=True, **options
            ),
            f"{parallel} dropout": dropout_differs(group),
            "ranks": group.gather(group.rank),
        }
        if group.rank == 0:  # alone, while the other one waits
            load_weights(latest_checkpoint(folder / parallel / "checkpoints"), model())
            (folder / f"{parallel}.json").write_text(json.dumps(found))


def dropout_differs(group):
    """Random numbers of both processes before, and of both after going on from a checkpoint."""
    Trainer(model(), TOKENS, CONFIG, processes=group)
    return group.gather(torch.rand(2).tolist())


if __name__ == "__main__":
    in_each_process(Path(sys.argv[1]), sys.argv[2])
    sys.exit()


# --- two processes against one ------------------------------------------------------------------


def half_a_run(folder, **options):
    """Two of the four steps."""
    trainer = Trainer(model(), TOKENS, CONFIG, folder=folder, **options)
    trainer.step(), trainer.step()
    trainer.save()


@pytest.fixture(scope="module")
def one():
    return trained()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Folder and findings of two processes; the halves that they go on from are made here."""
    folder = tmp_path_factory.mktemp("two")
    half_a_run(folder / "one ddp")
    with group_of_one("fsdp") as group:
        half_a_run(folder / "one fsdp", processes=group)
    torchrun = Path(sysconfig.get_path("scripts")) / "torchrun"
    found = {}
    # One launch each: a second group in the same processes may read the first one's addresses.
    for parallel in ("ddp", "fsdp"):
        command = [torchrun, "--standalone", "--nproc-per-node", "2", __file__, folder, parallel]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
        found |= json.loads((folder / f"{parallel}.json").read_text())
    return folder, found


class group_of_one:
    """A process group with this process alone, in one of the two ways."""

    def __init__(self, parallel):
        self.parallel = parallel

    def __enter__(self):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        return SeveralProcesses(self.parallel, torch.device("cpu"))

    def __exit__(self, *exception):
        dist.destroy_process_group()


BOTH = pytest.mark.parametrize("parallel", ["ddp", "fsdp"])


@BOTH
def test_two_processes_have_the_losses_gradients_and_evaluations_of_one(one, two, parallel):
    found = two[1][parallel]
    assert two[1]["ranks"] == [0, 1]
    for name in ("losses", "norms", "validation"):
        assert len(found[name]) == (2 if name == "validation" else 4)
        assert_close(torch.tensor(found[name]), torch.tensor(one[name]), **CLOSE)
    assert found["n_tokens"] == one["n_tokens"]
    assert min(one["norms"]) < CONFIG.clip < max(one["norms"])


@BOTH
def test_targets_are_weighted_alike_whichever_process_has_them(two, parallel):
    expected = trained(padded)
    for name in ("losses", "norms"):
        values = torch.tensor(two[1][f"{parallel} padded"][name])
        assert_close(values, torch.tensor(expected[name]), **CLOSE)


@BOTH
def test_in_float32_they_agree_to_its_rounding(two, parallel):
    expected = trained(dtype=torch.float32)
    found = torch.tensor(two[1][f"{parallel} float32"]["losses"])
    # AdamW's first steps amplify the rounding of small gradients: a hundred times 2^-23.
    assert_close(found, torch.tensor(expected["losses"]), rtol=1e-5, atol=0)


@BOTH
def test_each_process_has_its_own_dropout(two, parallel):
    first, second = two[1][f"{parallel} dropout"]
    assert first != second


@BOTH
def test_two_processes_go_on_from_the_checkpoint_of_one(one, two, parallel):
    found = two[1][f"{parallel} resumed"]["losses"]
    assert_close(torch.tensor(found), torch.tensor(one["losses"][2:]), **CLOSE)


@BOTH
def test_one_process_goes_on_from_the_checkpoint_of_two(one, two, parallel, tmp_path):
    folder = two[0] / parallel
    saved = list_checkpoints(folder / "checkpoints")
    assert [path.is_dir() for path in saved] == [parallel == "fsdp"] * 2
    assert read_progress(saved[0])["steps_done"] == 2
    trainer = Trainer(model(), TOKENS, CONFIG, validation=HELD_OUT)
    assert trainer.processes.load(saved[0], trainer.model, trainer.optimizer)["steps_done"] == 2
    trainer.generator.set_state(read_progress(saved[0])["batches"])
    trainer.steps_done = 2
    losses = [trainer.step().loss for _ in range(2)]
    assert_close(torch.tensor(losses), torch.tensor(one["losses"][2:]), **CLOSE)


@BOTH
def test_the_weights_of_two_processes_load_into_one_model(two, parallel, tmp_path):
    loaded = model()
    progress = load_weights(latest_checkpoint(two[0] / parallel / "checkpoints"), loaded)
    assert progress["steps_done"] == 4 and len(progress["random"]) == 2
    expected = model()
    train(expected, TOKENS, CONFIG)
    for name, value in expected.state_dict().items():
        assert_close(loaded.state_dict()[name], value, **CLOSE, msg=name)


def test_only_the_first_process_writes_metrics(two):
    for parallel in ("ddp", "fsdp"):
        lines = (two[0] / parallel / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


# --- a group of one process ---------------------------------------------------------------------


@BOTH
def test_a_group_of_one_trains_and_resumes_as_no_group_does(one, parallel, tmp_path):
    with group_of_one(parallel) as group:
        assert (group.rank, group.size) == (0, 1)
        x = torch.tensor([1.0, 2.0])
        total = group.sum(x)
        assert torch.equal(total, x) and total.data_ptr() != x.data_ptr()
        found = trained(folder=tmp_path, processes=group)
        assert_close(torch.tensor(found["losses"]), torch.tensor(one["losses"]), **CLOSE)
        latest = latest_checkpoint(tmp_path / "checkpoints")
        assert latest.is_dir() == (parallel == "fsdp")
        again = Trainer(model(), TOKENS, CONFIG, folder=tmp_path, resume=True, processes=group)
        assert again.steps_done == 4
        again.save()  # over the one that is there
        assert read_progress(latest)["steps_done"] == 4
        assert not list(latest.parent.glob(".*"))


def test_shards_that_are_damaged_or_missing_are_named(tmp_path):
    with group_of_one("fsdp") as group:
        half_a_run(tmp_path, processes=group)
    latest = latest_checkpoint(tmp_path / "checkpoints")
    shard = next(latest.glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(ValueError, match="step-00000002 is damaged or cut short"):
        load_weights(latest, model())
    shard.unlink()
    with pytest.raises(ValueError, match="step-00000002 is damaged or cut short"):
        load_weights(latest, model())
    (latest / ".metadata").unlink()
    with pytest.raises(ValueError, match="step-00000002 is damaged or cut short"):
        load_weights(latest, model())
    (latest / distributed.PROGRESS).unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*progress\.pt"):
        load_weights(latest, model())


def test_shards_of_another_model_are_refused(tmp_path):
    with group_of_one("fsdp") as group:
        half_a_run(tmp_path, processes=group)
    latest = latest_checkpoint(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="step-00000002 is"):
        load_weights(latest, model(d_ff=128))


def test_fsdp_does_not_go_on_from_a_single_file(tmp_path):
    half_a_run(tmp_path)
    with (
        group_of_one("fsdp") as group,
        pytest.raises(ValueError, match=r"step-00000002\.pt is not in shards.*use parallel 'ddp'"),
    ):
        Trainer(model(), TOKENS, CONFIG, folder=tmp_path, resume=True, processes=group)


def test_an_interrupted_write_of_shards_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    from torch.distributed import checkpoint

    with group_of_one("fsdp") as group:
        half_a_run(tmp_path, processes=group)
        trainer = Trainer(model(), TOKENS, CONFIG, folder=tmp_path, resume=True, processes=group)
        trainer.step()

        def fail(*args, **kwargs):
            raise OSError("the disk is full")

        with monkeypatch.context() as patched, pytest.raises(OSError, match="the disk is full"):
            patched.setattr(checkpoint, "save", fail)
            trainer.save()
        assert latest_checkpoint(tmp_path / "checkpoints").name == "step-00000002"
        assert read_progress(trainer.save())["steps_done"] == 3


# --- choosing -----------------------------------------------------------------------------------


def test_outside_torchrun_there_is_one_process():
    with processes(device="cpu") as (group, device):
        assert type(group) is OneProcess and (group.rank, group.size) == (0, 1)
        assert device == torch.device("cpu")
        assert group.gather("x") == ["x"] and group.wait() is None
        x = torch.ones(2)
        assert group.sum(x) is x and group.wrap(x) is x
    with (
        pytest.raises(ValueError, match=r"parallel = 'ddp' needs several processes.*torchrun"),
        processes("ddp", "cpu"),
    ):
        pass


def test_under_torchrun_the_group_is_there_as_long_as_the_block(monkeypatch):
    environment = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
        "TORCHELASTIC_RUN_ID": "test",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with processes(device="cpu") as (group, device):
        assert isinstance(group, SeveralProcesses) and group.parallel == "ddp"
        assert dist.is_initialized() and device.type == "cpu"
        with pytest.raises(ValueError, match="parallel is 'tensor'; choose 'ddp' or 'fsdp'"):
            SeveralProcesses("tensor", device)
    assert not dist.is_initialized()


def test_a_batch_must_be_shared_evenly():
    group = OneProcess()
    group.size = 3
    with pytest.raises(ValueError, match="multiple of 3 processes times accumulation = 2, got 8"):
        Trainer(model(), TOKENS, CONFIG, processes=group)


def test_a_device_is_chosen_or_named():
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert resolve_device("meta").type == "meta"
    with pytest.raises(
        ValueError, match="device must be 'auto', 'cpu', 'cuda' or 'mps', got 'gpu'"
    ):
        resolve_device("gpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_cuda_then_mps_then_the_cpu(monkeypatch, cuda, mps, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto").type == resolve_device().type == chosen
    for name, there in {"cuda": cuda, "mps": mps}.items():
        if not there:
            with pytest.raises(ValueError, match=f"device is '{name}', and torch finds none here"):
                resolve_device(name)


def test_weights_of_another_model_are_named(tmp_path):
    path = tmp_path / "a.pt"
    state = {"model": model().state_dict(), "optimizer": {}, "progress": {"steps_done": 1}}
    save_checkpoint(path, state)
    assert load_weights(path, model())["steps_done"] == 1
    with pytest.raises(ValueError, match=r"a\.pt is of another model: .*(ffn|size mismatch)"):
        load_weights(path, model(d_ff=128))
    other = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"a\.pt is of another model: Missing key"):
        OneProcess().load(path, other, AdamW(other.parameters()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@BOTH
def test_cuda_processes_train_as_the_cpu_does(one, parallel, tmp_path):
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        device = torch.device("cuda", 0)
        group = SeveralProcesses(parallel, device)
        found = trained(folder=tmp_path, processes=group, device=device)
    finally:
        dist.destroy_process_group()
    assert_close(torch.tensor(found["losses"]), torch.tensor(one["losses"]), rtol=1e-9, atol=0)
