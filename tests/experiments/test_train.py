from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import train as training_script
from experiments.train import Training, augment, performance, train
from jc2i import data, models
from jc2i.models import registry
from jc2i.models.layers import Dropout, batch_norm, convolution, dense

ROOT = Path(training_script.__file__).parents[1]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Programs of eight devices take twice as long to compile: one test has them."""
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])


@pytest.fixture
def tiny(tmp_path):
    """A run on 40 images of 8x8 in 3 channels, two classes that differ in brightness."""
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = (random.random((40, 8, 8, 3)) * 0.4 + 0.5 * labels[:, None, None, None]).astype("f4")
    np.savez(
        tmp_path / "tiny.npz",
        train_images=images[:30],
        train_labels=labels[:30],
        test_images=images[30:],
        test_labels=labels[30:],
    )
    return Training(
        out=tmp_path / "model",
        data=str(tmp_path / "tiny.npz"),
        epochs=4,
        batch_size=8,
        learning_rate=0.01,
        checkpoint_every=1,
        augment=True,
        progress=False,
    )


def weights(out: Path) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(models.load(out))]


def kill_after(epochs: int, monkeypatch) -> None:
    """Ends the run like an interrupt, right after the checkpoint of these epochs."""
    save = training_script.save_checkpoint

    def save_then_die(path, training, done, state):
        save(path, training, done, state)
        if done == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(training_script, "save_checkpoint", save_then_die)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_learns_normalises_and_records(tiny, optimizer):
    record = train(dataclasses.replace(tiny, optimizer=optimizer, weight_decay=1e-4))
    assert record["test"] == performance(models.load(tiny.out), data.load(tiny.data, "test"))
    assert record["train"]["accuracy"] == 1.0
    assert 0.5 < record["train"]["confidence"] <= 1.0
    assert record["test"]["images"] == 10
    model, pixels = models.load(tiny.out), data.load(tiny.data, "train")[:][0]
    np.testing.assert_allclose(model.mean, pixels.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(model.std, pixels.std((0, 1, 2)), atol=1e-4)
    assert json.loads((tiny.out / "training.json").read_text()) == record
    assert record["arguments"]["seed"] == 0 and "jax" in record["provenance"]["versions"]
    assert [path.name for path in tiny.out.parent.iterdir() if "checkpoint" in path.name] == []


def test_resumed_run_equals_the_uninterrupted_one(tiny, monkeypatch):
    train(tiny)
    resumed = dataclasses.replace(tiny, out=tiny.out.with_name("resumed"))
    with monkeypatch.context() as patched:
        kill_after(2, patched)
        with pytest.raises(KeyboardInterrupt):
            train(resumed)
    assert not resumed.out.exists()
    train(resumed)
    for one, other in zip(weights(tiny.out), weights(resumed.out), strict=True):
        np.testing.assert_array_equal(one, other)


def test_lipschitz_networks_are_trained_through_their_constraint_and_resumed(tiny, monkeypatch):
    lipschitz = dataclasses.replace(
        tiny,
        model="lipschitz",
        option=("widths=(3,4)", "dropout=0.3", "bjorck_steps=6"),
        loss_temperature=0.1,
    )
    record = train(lipschitz)
    model = models.load(tiny.out)
    assert (model.size, model.mean, model.widths) == (8, (0, 0, 0), (3, 4))
    assert model.bjorck_steps == 6 and model.dropout.rate == 0.3
    assert 0.99 < models.lipschitz_bound(model) <= 1 + 1e-6
    held_out = data.load(tiny.data, "test")
    assert record["test"] == performance(model, held_out, temperature=0.1)
    assert record["test"]["confidence"] > performance(model, held_out)["confidence"] + 0.05
    resumed = dataclasses.replace(lipschitz, out=tiny.out.with_name("resumed"))
    with monkeypatch.context() as patched:
        kill_after(2, patched)
        with pytest.raises(KeyboardInterrupt):
            train(resumed)
    train(resumed)
    for one, other in zip(weights(tiny.out), weights(resumed.out), strict=True):
        np.testing.assert_array_equal(one, other)
    # Its last layer alone: the others come back as they were, but for rounding.
    fine_tuned = dataclasses.replace(
        lipschitz,
        out=tiny.out.with_name("tuned"),
        weights=str(tiny.out),
        option=(),
        head_epochs=1,
        epochs=1,
        learning_rate=1e-30,
        head_learning_rate=0.01,
    )
    train(fine_tuned)
    tuned = models.load(fine_tuned.out)
    before, after = (dict(models.classifier.weights(m)) for m in (model, tuned))
    for name, value in before.items():
        same = np.allclose(value, after[name], atol=1e-4)
        assert same is not name.startswith("head"), name
    assert models.lipschitz_bound(tuned) <= 1 + 1e-6


def test_permuted_labels_are_those_of_other_images(tiny, tmp_path):
    arrays = dict(np.load(tiny.data))
    order = np.random.default_rng((tiny.seed, 1)).permutation(30)
    np.savez(tmp_path / "permuted.npz", **arrays | {"train_labels": arrays["train_labels"][order]})
    first = dataclasses.replace(tiny, epochs=1)
    asked = dataclasses.replace(first, out=tmp_path / "asked", permute_labels=True)
    given = dataclasses.replace(first, out=tmp_path / "given", data=str(tmp_path / "permuted.npz"))
    assert train(asked)["arguments"]["permute_labels"]
    train(given)
    assert not np.array_equal(arrays["train_labels"][order], arrays["train_labels"])
    for one, other in zip(weights(asked.out), weights(given.out), strict=True):
        np.testing.assert_array_equal(one, other)


def test_dropout_is_drawn_anew_at_each_step_and_again_alike(tiny):
    class Noisy(models.Small):
        """Logits that are what dropout leaves of ones, times a weight."""

        def __init__(self):
            super().__init__(classes=2, size=4, widths=(2,), hidden=2, channels=3)
            self.noise = Dropout(0.5)

        @property
        def draws(self):
            return self.noise.draws

        def forward(self, values, key=None):
            return super().forward(values) + self.noise(jnp.ones((len(values), 2)), key)

    dataset = data.load(tiny.data, "train", size=(4, 4))
    short = dataclasses.replace(tiny, epochs=2)
    runs, step = [], training_script._step

    def kept(*arguments):
        key = tuple(np.asarray(jax.random.key_data(arguments[5])).tolist())
        result = step(*arguments)
        runs[-1].append((key, float(result[-1])))
        return result

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training_script, "_step", kept)
        for name in ("one", "again"):
            runs.append([])
            training_script.fit(Noisy(), dataset, short, tiny.out.with_name(name))
    assert runs[0] == runs[1]
    assert len(runs[0]) == len({key for key, _ in runs[0]}) == 6


def test_batch_statistics_are_trained_and_resumed(tiny, monkeypatch):
    class Normalized(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(3, use_running_average=True, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

        def __call__(self, images):
            return self.head(self.norm(images.mean((1, 2))))

    dataset, checkpoint = data.load(tiny.data, "train"), tiny.out.with_name("checkpoint")
    straight = training_script.fit(Normalized(), dataset, tiny, tiny.out.with_name("other"))
    with monkeypatch.context() as patched:
        kill_after(3, patched)
        with pytest.raises(KeyboardInterrupt):
            training_script.fit(Normalized(), dataset, tiny, checkpoint)
    resumed = training_script.fit(Normalized(), dataset, tiny, checkpoint)
    for one, other in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert straight.norm.use_running_average  # in evaluation mode
    assert np.abs(straight.norm.mean[...]).min() > 0


def test_trains_alike_on_one_device_and_on_eight(tiny):
    """Of statistics, too: those of the whole batch, not of a device's part of it."""

    class Normalized(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(3, use_running_average=True, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

        def __call__(self, images):
            return self.head(self.norm(images.mean((1, 2))))

    dataset, spread = data.load(tiny.data, "train"), []
    step, tiny = training_script._step, dataclasses.replace(tiny, optimizer="sgd")

    def watched(*arguments):
        images, weights = arguments[-2], jax.tree.leaves(arguments[2])[0]
        spread.append((len(images.sharding.device_set), len(weights.sharding.device_set)))
        return step(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training_script, "_step", watched)
        one, eight, six = (
            training_script.fit(
                Normalized(),
                dataset,
                dataclasses.replace(tiny, batch_size=size),
                tiny.out.with_name(f"{count}-{size}"),
                jax.devices()[:count],
            )
            for count, size in ((1, 8), (8, 8), (8, 6))
        )
    assert spread == [(1, 1)] * 12 + [(8, 8)] * 12 + [(6, 6)] * 20
    for first, second in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(six)} == {1}


class Normalized(models.Classifier):
    """Two convolutions and batch norms, one dense layer."""

    def __init__(self, *, classes, channels, mean, std, normalize, dtype):
        options = {"mean": mean, "std": std, "normalize": normalize, "dtype": dtype}
        super().__init__("normalized", classes=classes, channels=channels, size=None, **options)
        self.convolutions = nnx.List([convolution(channels, 4), convolution(4, 4)])
        self.norms = nnx.List([batch_norm(4), batch_norm(4)])
        self.fc = dense(4, classes)

    def forward(self, values):
        for layer, norm in zip(self.convolutions, self.norms, strict=True):
            values = jax.nn.relu(norm(layer(values)))
        return self.fc(values.mean(axis=(1, 2)))


@pytest.fixture
def fine_tuned(tiny, tmp_path, monkeypatch):
    """A run that starts from a network with batch norms and five classes: 2 and 2 epochs."""
    monkeypatch.setitem(registry.ARCHITECTURES, "normalized", (Normalized, {}))
    options = {"channels": 3, "mean": (0.4, 0.5, 0.6), "std": None, "normalize": True}
    model = models.create(
        "normalized", classes=5, key=jax.random.key(7), dtype="float32", **options
    )
    models.save(model, tmp_path / "pretrained")
    return dataclasses.replace(tiny, weights=str(tmp_path / "pretrained"), head_epochs=2, epochs=2)


def test_last_layer_alone_then_all(fine_tuned, monkeypatch):
    saved = {}
    save = training_script.save_checkpoint

    def save_and_keep(path, training, done, state):
        saved[done] = jax.device_get(state)
        save(path, training, done, state)

    monkeypatch.setattr(training_script, "save_checkpoint", save_and_keep)
    record = train(fine_tuned)
    pretrained, model = models.load(fine_tuned.weights), models.load(fine_tuned.out)
    assert (model.classes, model.mean) == (2, pretrained.mean)
    assert record["arguments"]["model"] == "normalized"
    assert record["arguments"]["weights"] == "pretrained"
    _, *parts = nnx.split(pretrained, nnx.PathContains("fc"), nnx.Param, ...)
    _, body, statistics = (jax.tree.leaves(nnx.as_pure(part)) for part in parts)
    for done, moved in ((1, False), (2, False), (3, True), (4, True)):
        for before, after in ((body, saved[done][1]), (statistics, saved[done][2])):
            same = [
                np.array_equal(a, b) for a, b in zip(before, jax.tree.leaves(after), strict=True)
            ]
            # In 3 and 4, all: each kernel, scale and bias, each running mean and variance.
            assert not any(same) if moved else all(same), done
    heads = [jax.tree.leaves(saved[done][0]) for done in (1, 2, 3, 4)]
    for before, after in itertools.pairwise(heads):
        assert all((a != b).any() for a, b in zip(before, after, strict=True))


def test_fine_tuning_resumes_in_either_phase(fine_tuned, monkeypatch):
    train(fine_tuned)
    for killed_after in (1, 2, 3):  # in the first phase, between the two, in the second
        resumed = dataclasses.replace(fine_tuned, out=fine_tuned.out.with_name(f"{killed_after}"))
        with monkeypatch.context() as patched:
            kill_after(killed_after, patched)
            with pytest.raises(KeyboardInterrupt):
                train(resumed)
        train(resumed)
        for one, other in zip(weights(fine_tuned.out), weights(resumed.out), strict=True):
            np.testing.assert_array_equal(one, other)


def test_last_layer_alone_costs_a_forward_pass(fine_tuned, monkeypatch):
    costs = []
    step = training_script._step

    def measured(*arguments):
        compiled = step.lower(*arguments).compile()
        costs.append(compiled.cost_analysis()["flops"])
        return step(*arguments)

    monkeypatch.setattr(training_script, "_step", measured)
    # As many images as a batch has: one step an epoch.
    train(dataclasses.replace(fine_tuned, head_epochs=1, epochs=1, batch_size=30))
    assert len(costs) == 2
    # Two convolutions forward, against their weights' gradients and one input's on top.
    assert costs[0] < 0.5 * costs[1]


def test_grey_images_and_the_size_that_the_weights_need(tiny, tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        f"{split}_{kind}": values
        for split in ("train", "test")
        for kind, values in (
            ("images", random.integers(0, 256, (10, 6, 6), np.uint8)),
            ("labels", np.arange(10) % 3),
        )
    }
    np.savez(tmp_path / "grey.npz", **arrays)
    start = models.create("small", classes=2, key=jax.random.key(0), size=8, channels=3)
    models.save(start, tmp_path / "start")
    grey, path = str(tmp_path / "grey.npz"), str(tmp_path / "start")
    train(dataclasses.replace(tiny, data=grey, weights=path, epochs=1))
    model = models.load(tiny.out)
    assert (model.classes, model.channels, model.size) == (3, 3, 8)


@pytest.mark.slow
def test_killed_process_resumes(tiny):
    def command(out: Path) -> list[str]:
        names = ("data", "epochs", "batch_size", "learning_rate")
        options = [f"--{name.replace('_', '-')}={getattr(tiny, name)}" for name in names]
        script = ROOT / "experiments" / "train.py"
        return [sys.executable, str(script), f"--out={out}", "--checkpoint-every=1", *options]

    # The same number of devices for both: this process has eight.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    tiny = dataclasses.replace(tiny, epochs=20)
    subprocess.run(command(tiny.out), check=True, env=environment)
    killed, checkpoint = tiny.out.with_name("killed"), tiny.out.with_name("killed.checkpoint")
    process = subprocess.Popen(command(killed), env=environment)
    while not list(checkpoint.glob("[0-9]*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not killed.exists()
    subprocess.run(command(killed), check=True, env=environment)
    for one, other in zip(weights(tiny.out), weights(killed), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_two_processes_equal_two_devices_and_one_goes_on_alone(tiny, monkeypatch, of_two):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:2])
    tiny = dataclasses.replace(tiny, epochs=12)
    train(tiny)

    def together(out, **options):
        names = ("data", "epochs", "batch_size", "learning_rate", "checkpoint_every")
        given = [f"--{name.replace('_', '-')}={getattr(tiny, name)}" for name in names]
        flags = ("--augment", "--distributed", "--no-progress")
        script = ROOT / "experiments" / "train.py"
        return of_two(script, f"--out={out}", *given, *flags, **options)

    out, killed = tiny.out.with_name("together"), tiny.out.with_name("killed")
    assert [code for code, _ in together(out)] == [0, 0]
    for one, other in zip(weights(tiny.out), weights(out), strict=True):
        np.testing.assert_array_equal(one, other)
    records = [json.loads((path / "training.json").read_text()) for path in (tiny.out, out)]
    assert records[0]["test"] == records[1]["test"]
    assert records[0]["arguments"] == records[1]["arguments"]

    def kill_the_second(processes):
        while not list(killed.with_name("killed.checkpoint").glob("[0-9]*")):
            assert processes[0].poll() is None, processes[0].communicate()[1]
            time.sleep(0.01)
        processes[1].kill()

    (code, errors), _ = together(killed, during=kill_the_second)
    assert code == 2 and not killed.exists()
    assert errors.splitlines()[-1].startswith("train.py: another process of this run died or can")
    train(dataclasses.replace(tiny, out=killed))
    for one, other in zip(weights(tiny.out), weights(killed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_step_is_cut_over_all_processes():
    """As many devices of each, and no process without any."""

    def device(process, number):
        return Mock(process_index=process, number=number)

    devices = [device(process, number) for process in range(2) for number in range(3)]
    chosen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_script.parallel, "mesh", chosen.append)
        for batch_size, count in ((12, 6), (8, 4), (6, 6), (10, 2)):
            training_script._dividing(batch_size, devices)
            assert len(chosen[-1]) == count
            processes = [device.process_index for device in chosen[-1]]
            assert processes == [0] * (count // 2) + [1] * (count // 2)
    with pytest.raises(ValueError, match="batch_size: got 7, takes a multiple of the run's 2 pro"):
        training_script._dividing(7, devices)


def test_performance_counts_every_image_once():
    images = np.linspace(0, 1, 7, dtype=np.float32).reshape(7, 1, 1, 1)
    dataset = data.Dataset(images, (images[:, 0, 0, 0] > 0.7).astype(np.int32), ("0", "1"), "ramp")

    @jax.tree_util.Partial
    def model(images):
        brightness = images[:, 0, 0, 0]
        return jnp.stack([jnp.zeros_like(brightness), 10 * brightness - 5.0], 1)

    expected = 1 / (1 + np.exp(-np.abs(10 * images - 5.0)))
    for batch_size in (3, 7, 20):
        figures = performance(model, dataset, batch_size)
        assert figures["images"] == 7
        assert figures["accuracy"] == pytest.approx(6 / 7)  # 4/6 is called 1, and is 0
        assert figures["confidence"] == pytest.approx(expected.mean(), rel=1e-6)


def test_augment_crops_what_is_there():
    images = np.arange(1, 33, dtype=np.uint8).reshape(1, 16, 2, 1).repeat(300, 0)
    augmented = augment(images, np.random.default_rng(0))
    assert augmented.shape == images.shape
    # Columns too narrow to shift: what is left is one of 5 shifts in height, mirrored or not.
    padded = np.pad(images[0], ((2, 2), (0, 0), (0, 0)))
    shifted = [padded[top : top + 16] for top in range(5)]
    possible = {image.tobytes() for image in [*shifted, *(image[:, ::-1] for image in shifted)]}
    assert {image.tobytes() for image in augmented} == possible


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: got 0, takes a number above 0"),
        ({"learning_rate": -1.0}, "learning_rate: got -1.0, takes a number above 0"),
        ({"head_epochs": 1}, "head_epochs: got 1, takes 0, or more with weights to start from"),
        ({"head_learning_rate": 0.0}, "head_learning_rate: got 0.0, takes a number above 0"),
        ({"model": "tiny"}, "name: got 'tiny', takes one of"),
        ({"loss_temperature": 0.0}, "loss_temperature: got 0.0, takes a number above 0"),
        ({"option": ("hidden",)}, "option: got 'hidden', takes name=value"),
        ({"option": ("filters=3",)}, "options: got filters, takes those of small: classes, "),
        ({"option": ("classes=3",)}, "option: got 'classes', takes no number that the data set"),
        (
            {"option": ("hidden=3",), "weights": "x"},
            r"option: got \('hidden=3',\), takes none with",
        ),
        ({"data": "nothing.npz"}, "name_or_path: got 'nothing.npz', which is not there"),
        ({"train_split": "validation"}, "split: got 'validation', takes 'train', 'test'"),
        ({"learning_rate": 1e30}, r"learning_rate: got 1e\+30, and a loss of (nan|inf)"),
    ],
)
def test_refusals(tiny, changes, message):
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(tiny, **changes))
    assert not tiny.out.exists()


def test_nothing_is_overwritten_unasked(tiny):
    short = dataclasses.replace(tiny, epochs=1)
    train(short)
    before = weights(tiny.out)
    with pytest.raises(FileExistsError, match="out: .*model exists: pass --overwrite"):
        train(dataclasses.replace(short, seed=1))
    np.testing.assert_array_equal(before[0], weights(tiny.out)[0])
    train(dataclasses.replace(short, seed=1, overwrite=True))
    assert any((a != b).any() for a, b in zip(before, weights(tiny.out), strict=True))


def test_run_killed_while_saving_ends_when_started_again(tiny, monkeypatch):
    short = dataclasses.replace(tiny, epochs=1)
    with monkeypatch.context() as patched:
        patched.setattr(training_script, "write_whole", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(short)
    train(short)
    assert (tiny.out / "training.json").exists()
    assert not tiny.out.with_name("model.checkpoint").exists()


def test_checkpoint_of_another_run_or_damaged(tiny, monkeypatch):
    kill_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(tiny)
    with pytest.raises(
        ValueError, match=r"out: got the checkpoint .* another run: seed 1 \(was 0\)"
    ):
        train(dataclasses.replace(tiny, seed=1))
    checkpoint = tiny.out.with_name("model.checkpoint") / "1"
    largest = max(checkpoint.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(largest.read_bytes()[:200])
    with pytest.raises(ValueError, match="out: got a damaged checkpoint"):
        train(tiny)
    (checkpoint / "run.json").write_text("{")
    with pytest.raises(ValueError, match="out: got a damaged checkpoint"):
        train(tiny)


def test_command_line_ends_with_one_line_and_an_exit_code(tiny, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", f"--out={tiny.out}", "--data=nothing"])
    with pytest.raises(SystemExit) as exit_:
        training_script.main()
    errors = capsys.readouterr().err
    assert exit_.value.code == 2 and errors.count("\n") == 1
    assert errors.startswith("train.py: name_or_path: got 'nothing', which is not")
    arguments = [f"--out={tiny.out}", f"--data={tiny.data}", "--epochs=1", "--no-progress"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        training_script.main()
    assert exit_.value.code == 0 and "test: accuracy " in capsys.readouterr().out
