"""A sound classifier, its examples and its training: against cases worked out by hand, the
teacher's own runtime, and a run that was stopped.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.features import load_sound_scores, sound_spec
from export.stems import halve
from export.to_onnx import trace_graph
from media.containers import Budget
from media.errors import BadConfig
from media.sound import read_waveform
from model.__main__ import main
from model.data.open_sounds import (
    CannotFetchPackage,
    find_licence,
    prepare_open_sounds,
    read_licences,
)
from model.distil import examples as examples_module
from model.distil import mixtures as mixtures_module
from model.distil import train
from model.distil.examples import Examples
from model.distil.mixtures import Mixtures, Random, put_in_rooms
from model.distil.recordings import Recordings, load_recordings, read_sound_rows
from model.distil.train import CHECKPOINT, DistilConfig, distil, distil_loss, read_weights
from model.network.sound_classifier import (
    PATCH_SAMPLES,
    RATE,
    SILENT_PEAK,
    LogMelPatches,
    SoundClassifier,
    SoundScores,
    Stage,
    mel_filters,
)
from model.network.stems import LinearMap, SoundEncoder
from model.network.yamnet import read_yamnet

from .makers import SHARED, needs_shared

SMALL = (
    Stage(blocks=1, kernel=3, stride=1, widen=1, channels=2),
    Stage(blocks=2, kernel=5, stride=2, widen=4, channels=6),
)


def small_network() -> SoundClassifier:
    torch.manual_seed(0)
    return SoundClassifier(SMALL, stem=4, head=10, classes=7)


def picture_weights() -> dict[str, torch.Tensor]:
    """What a network for pictures of the same shape would have, named as EfficientNet-PyTorch does;
    its first convolution sees three colours.
    """
    names = [("_conv_stem", "_bn0")]
    for block, parts in enumerate((2, 3, 3)):
        convs = ["_expand_conv", "_depthwise_conv", "_project_conv"][3 - parts :]
        norms = ["_bn0", "_bn1", "_bn2"][3 - parts :]
        names += [
            (f"_blocks.{block}.{conv}", f"_blocks.{block}.{norm}")
            for conv, norm in zip(convs, norms, strict=True)
        ]
    names.append(("_conv_head", "_bn1"))
    torch.manual_seed(1)
    weights = {}
    for (conv, norm), module in zip(names, small_network().convolutions(), strict=True):
        shape = list(module.conv.weight.shape)
        shape[1] = 3 if conv == "_conv_stem" else shape[1]
        weights[f"{conv}.weight"] = torch.randn(shape)
        for key in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{norm}.{key}"] = torch.rand(shape[0]) + 0.5
    return weights


def tone(hz: float, seconds: float, loudness: float = 0.5) -> torch.Tensor:
    t = torch.arange(round(seconds * RATE)) / RATE
    return (loudness * torch.sin(2 * torch.pi * hz * t))[None]


def test_five_seconds_are_nine_patches_of_which_silent_ones_are_not_heard() -> None:
    waveform = torch.cat((tone(440, 2.0), torch.zeros(1, 3 * RATE)), dim=1)
    patches, heard = LogMelPatches()(waveform)
    assert patches.shape == (1, 9, 64, 96)
    # a patch begins every 0.48 s: the fifth at 1.92 s
    assert heard[0].tolist() == [True] * 5 + [False] * 4
    assert torch.allclose(patches[0, 8], torch.full((64, 96), float(np.log(1e-3))))


def test_a_tone_is_loudest_in_the_filter_of_its_pitch() -> None:
    """In HTK's mel, 64 filters between 125 and 7,500 Hz; a sine of 0.5 under a Hann window of 400
    samples has a magnitude of 0.5 x 200 / 2 = 50 in its own bin.
    """
    patches, _ = LogMelPatches()(tone(1000, 1.0))

    def mel(hz: float) -> float:
        return float(1127 * np.log1p(hz / 700))

    place = (mel(1000) - mel(125)) / (mel(7500) - mel(125)) * 65 - 1
    assert abs(int(patches[0, 0].mean(1).argmax()) - place) < 1
    row = mel_filters()[32]  # 1,000 Hz is bin 32
    assert float(patches[0, 0].max().exp()) > 50 * float(row.max())


def test_scores_are_the_mean_over_what_is_heard() -> None:
    class Loudness(torch.nn.Module):
        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            return patches.mean((1, 2))[:, None]

    network = SoundScores(Loudness())
    alone = network(tone(440, 1.0))
    followed = network(torch.cat((tone(440, 1.0)[:, :PATCH_SAMPLES], torch.zeros(1, RATE)), dim=1))
    assert followed.shape == (1, 1) and alone[0, 0] > 0
    # of silence every patch counts: log(0.001) in all of it
    assert torch.allclose(network(torch.zeros(1, RATE)), torch.tensor(1e-3).log().sigmoid())
    both = network(torch.cat((tone(440, 3.0), tone(440, 3.0, 0.001)), dim=0))
    assert torch.allclose(both[:1], network(tone(440, 3.0)), atol=1e-6)


def test_a_folded_classifier_gives_the_same() -> None:
    network = small_network()
    network.start_from_pictures(picture_weights())
    network.classes.weight.data.normal_()
    network.eval()
    patches = torch.randn(2, 64, 96)
    expected = network(patches)
    network.fold()
    assert torch.allclose(network(patches), expected, atol=1e-4)
    assert not any("norm" in name for name in network.state_dict())


def test_a_classifier_starts_from_a_network_for_pictures() -> None:
    weights = picture_weights()
    network = small_network()
    network.start_from_pictures(weights)
    # three colours become one
    assert torch.allclose(
        network.stem.conv.weight[:, 0], weights["_conv_stem.weight"].sum(1), atol=1e-6
    )
    last = network.blocks[2].layers[2]
    assert torch.equal(last.conv.weight, weights["_blocks.2._project_conv.weight"])
    assert torch.equal(last.norm.running_var, weights["_blocks.2._bn2.running_var"])


def test_the_loss_by_hand() -> None:
    """One class of two: the logits say 0.5 each, the teacher 1 and 0."""
    classes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    terms = distil_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), classes)
    entropy, distance, apart = map(float, terms)
    assert entropy == pytest.approx((5 + 1) * np.log(2) / 10)
    assert distance == pytest.approx(1 - np.sqrt(0.5))
    # both logits are 9.21 away: 9.21 - 0.5 each, as smooth L1 counts
    assert apart == pytest.approx((-np.log(1e-4) - 0.5) / 10, rel=1e-3)


def two_sets() -> Recordings:
    """Four tones in two sets; those of 3,000 Hz are held out."""
    sounds = [
        (20_000 * np.sin(2 * np.pi * hz * np.arange(2 * RATE) / RATE)).astype(np.int16)
        for hz in (300, 3000, 300, 3000)
    ]
    lengths = np.array([len(sound) for sound in sounds])
    return Recordings(
        np.concatenate(sounds),
        np.concatenate(([0], lengths[:-1])).cumsum(),
        lengths,
        ["a", "a", "b", "b"],
        np.array([False, True, False, True]),
    )


def test_examples_are_the_same_for_a_seed_and_keep_to_their_recordings() -> None:
    hz = {}
    for held_out in (False, True):
        mixtures = Mixtures(two_sets(), held_out=held_out)
        examples = mixtures.examples(40, seed=3)
        assert examples.shape == (40, PATCH_SAMPLES) and examples.dtype == torch.float32
        assert torch.equal(examples, mixtures.examples(40, seed=3))
        assert not torch.equal(examples, mixtures.examples(40, seed=4))
        peaks = examples.abs().amax(1)
        assert peaks.min() > 0.01 and peaks.max() <= 1.0
        spectra = torch.fft.rfft(examples).abs()
        pitches = spectra[:, 150:].argmax(1) + 150
        hz[held_out] = float(pitches.median()) * RATE / PATCH_SAMPLES
    assert 220 < hz[False] < 410 and 2200 < hz[True] < 4100  # of any speed


def of_one(samples: np.ndarray) -> Mixtures:
    return Mixtures(
        Recordings(
            samples.astype(np.int16),
            np.array([0]),
            np.array([len(samples)]),
            ["a"],
            np.array([False]),
        )
    )


def test_pieces_are_stretches_of_a_recording_at_a_loudness_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At its own speed, a piece of a ramp rises by the same everywhere."""
    monkeypatch.setattr(mixtures_module, "SPED", 0.0)
    monkeypatch.setattr(mixtures_module, "REPEATED", 0.0)
    ramp = of_one(np.arange(20_000, 32_000).repeat(6))
    random = Random(torch.device("cpu"), 0)
    whole, after_lead = ramp._pieces(random, torch.tensor([True, False]))
    assert whole.shape == (PATCH_SAMPLES + RATE,)
    assert float(whole.square().mean()) == pytest.approx(1.0, abs=1e-3)
    steps = (whole[6:] - whole[:-6]) / whole[0]
    assert float(steps.min()) >= 0 and float(steps.max()) < 2 / 20_000
    assert float(after_lead[:RATE].abs().max()) == 0
    assert float(after_lead[RATE:].square().mean()) == pytest.approx(1.0, abs=1e-3)


def test_a_short_recording_lies_in_its_piece_and_at_most_a_third_is_cut() -> None:
    click = of_one(np.full(900, 16_000))
    pieces = click._pieces(Random(torch.device("cpu"), 1), torch.ones(60, dtype=torch.bool))
    heard = (pieces > 0).sum(1)
    # once, at speeds of 0.74 to 1.35, or repeated
    assert int(heard.min()) >= 600 / 1.36
    assert int((heard > 900 / 0.73).sum()) in range(5, 26)  # a quarter of them


def test_a_room_keeps_the_start_and_adds_what_dies_away() -> None:
    click = torch.zeros(1, 2 * RATE)
    click[0, RATE // 2] = 1.0
    heard = put_in_rooms(click, Random(torch.device("cpu"), 0))
    assert heard.shape == click.shape
    assert float(heard[0, : RATE // 2].abs().max()) < 1e-5
    assert float(heard[0, RATE // 2].abs()) > 0
    # no echo is longer than 0.8 s
    assert float(heard[0, RATE // 2 + round(0.8 * RATE) + 1 :].abs().max()) < 1e-5


def halves(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches whose lower or upper half is louder, and scores that say which."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(2, (count,), generator=generator)
    patches = torch.randn(count, 64, 96, generator=generator) - 3
    rows = torch.arange(64)[None]
    patches += 3.0 * (rows // 32 == half[:, None])[..., None]
    scores = torch.zeros(count, 7)
    scores[torch.arange(count), half] = 0.9
    return patches, scores


def test_what_is_shown_has_the_teachers_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loudest(torch.nn.Module):
        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            return patches.mean(2)[:, :7]

    examples = Examples(Mixtures(two_sets()), Loudest())
    patches, scores = examples.take(6, seed=2)
    assert patches.shape == (6, 64, 96)
    assert torch.equal(scores, patches.mean(2)[:, :7].sigmoid())
    monkeypatch.setattr(examples_module, "AT_ONCE", 4)
    first, second = examples.judging(5), examples.judging(5)
    assert [len(batch) for batch, _ in first] == [4, 4]
    assert torch.equal(first[1][0], second[1][0]) and not torch.equal(first[0][0], first[1][0])


def test_some_bands_and_frames_are_blanked() -> None:
    """Where all is masked, a run of bands and a run of frames have the patch's mean."""
    patches = torch.randn(20, 64, 96, generator=torch.Generator().manual_seed(0))
    changed = train.blank_and_shift(patches, Random(torch.device("cpu"), 0))
    shift = (changed - patches).flatten(1).median(1).values
    blanked = (changed - patches - shift[:, None, None]).abs() > 1e-3
    bands = blanked.all(2).sum(1)
    frames = blanked.all(1).sum(1)
    assert shift.abs().max() < 5 * train.LOUDER
    assert 0 < int((bands > 0).sum()) < 14 and int(bands.max()) < train.MOST_BANDS
    assert 0 < int((frames > 0).sum()) < 14 and int(frames.max()) < train.MOST_FRAMES


def test_a_classifier_learns_and_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DistilConfig(steps=40, batch=8, warmup_steps=3, learning_rate=2e-2)
    classes = torch.eye(7)
    monkeypatch.setattr(train, "KEEP_EVERY_STEPS", 20)
    monkeypatch.setattr(train, "judge", lambda *_: [0.0])
    distil(small_network(), halves, [], classes, config, tmp_path / "whole")

    def stop(*_: object) -> list[float]:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopping, pytest.raises(KeyboardInterrupt):
        stopping.setattr(train, "judge", stop)
        distil(small_network(), halves, [], classes, config, tmp_path / "stopped")
    distil(small_network(), halves, [], classes, config, tmp_path / "stopped")
    whole, stopped = (read_weights(tmp_path / name) for name in ("whole", "stopped"))
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())

    lines = (tmp_path / "whole" / "distil.jsonl").read_text().splitlines()
    first, last = (sum(json.loads(line)["learned"]) for line in lines)
    assert last < 0.7 * first

    other = DistilConfig(steps=31)
    with pytest.raises(BadConfig, match="another config"):
        distil(small_network(), halves, [], classes, other, tmp_path / "whole")
    with pytest.raises(BadConfig, match="no checkpoint"):
        read_weights(tmp_path)
    assert (tmp_path / "whole" / CHECKPOINT).exists()


class OwnRuntime:
    """YAMNet as its own runtime has it: the scores of patches [15600], and their mean."""

    def __init__(self) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._network = Interpreter(str(SHARED / "teachers" / "yamnet.tflite"), num_threads=1)
        self._network.allocate_tensors()

    def patch(self, samples: np.ndarray) -> np.ndarray:
        self._network.set_tensor(self._network.get_input_details()[0]["index"], samples)
        self._network.invoke()
        return self._network.get_tensor(self._network.get_output_details()[0]["index"])[0].copy()

    def waveform(self, samples: np.ndarray) -> np.ndarray:
        """The mean over patches that overlap by half; of those that are silent, the first alone."""
        found: list[np.ndarray] = []
        for start in range(0, max(1, len(samples) - PATCH_SAMPLES + 1), PATCH_SAMPLES // 2):
            piece = samples[start : start + PATCH_SAMPLES]
            if found and np.abs(piece).max() < SILENT_PEAK:
                continue
            found.append(self.patch(np.pad(piece, (0, PATCH_SAMPLES - len(piece)))))
        return np.mean(found, axis=0)


@needs_shared
def test_yamnets_file_gives_what_its_own_runtime_gives() -> None:
    """On 20 recordings. The runtime rounds activations to 8 bits, so scores agree but roughly."""
    pytest.importorskip("ai_edge_litert")
    network = SoundScores(read_yamnet(SHARED / "teachers" / "yamnet.tflite")).eval()
    teacher = OwnRuntime()
    cosines = []
    for file in sorted((SHARED / "sounds" / "esc50").glob("*.ogg"))[::20]:
        sound = read_waveform(file, RATE, Budget())
        assert sound is not None
        with torch.no_grad():
            scores = network(torch.from_numpy(sound)[None])[0].numpy()
        expected = teacher.waveform(sound)
        cosines.append(scores @ expected / np.linalg.norm(scores) / np.linalg.norm(expected))
    assert len(cosines) == 20 and np.median(cosines) > 0.95 and min(cosines) > 0.7, cosines
    with pytest.raises(BadConfig, match="not YAMNet"):
        read_yamnet(SHARED / "teachers" / "segmenter_pascal.tflite")


# ---------------------------------------------------------------- Debian's packages

MACHINE_READABLE = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2020 Ann
License: GPL-2+

Files: data/sounds/*.wav
Copyright: 2021 Bo
License: CC-BY-3.0

License: GPL-2+
 On Debian systems it is in a file.

License: CC-BY-3.0
 Attribution.
"""


def make_package(folder: Path, name: str, copyright: str, sounds: dict[str, bytes]) -> None:
    """A Debian package as folder/NAME_1_all.deb."""
    root = folder / name
    for path, content in sounds.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    (root / "usr/share/doc" / name).mkdir(parents=True)
    (root / "usr/share/doc" / name / "copyright").write_text(copyright)
    (root / "DEBIAN").mkdir()
    fields = {
        "Package": name,
        "Version": "1",
        "Architecture": "all",
        "Maintainer": "A <a@example.org>",
        "Description": "sounds",
    }
    control = "".join(f"{key}: {value}\n" for key, value in fields.items())
    (root / "DEBIAN" / "control").write_text(control)
    packages = folder / "packages"
    packages.mkdir(exist_ok=True)
    file = str(packages / f"{name}_1_all.deb")
    subprocess.run(["dpkg-deb", "--build", str(root), file], check=True, capture_output=True)
    shutil.rmtree(root)


needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not there")


@needs_dpkg
def test_packages_become_rows_with_their_licences(tmp_path: Path) -> None:
    """A sound in the package, the same again, and one in an archive; the network is not needed."""
    pytest.importorskip("debian_inspector")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("music/Slow_Tune-2.ogg", b"o" * 500)
    sounds = {
        "usr/share/game/sounds/Big Horn1.wav": b"w" * 500,
        "usr/share/game/sounds/again.wav": b"w" * 500,
        "usr/share/game/sounds/short.wav": b"s" * 10,
        "usr/share/game/readme.txt": b"t" * 500,
        "usr/share/game/all.zip": archive.getvalue(),
    }
    make_package(tmp_path, "game-data", MACHINE_READABLE, sounds)
    assert prepare_open_sounds(tmp_path, packages=["game-data"]) == (2, 0)
    lines = (tmp_path / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["text"]: row for row in map(json.loads, lines)}
    horn, tune = rows["big horn"], rows["slow tune"]
    assert (horn["licence"], horn["licence_class"], horn["author"]) == (
        "CC-BY-3.0",
        "permissive",
        "Bo",
    )
    assert (tune["licence"], tune["licence_class"], tune["author"]) == (
        "GPL-2+",
        "share-alike",
        "Ann",
    )
    assert tune["source"] == "debian:game-data:usr/share/game/all.zip/music/Slow_Tune-2.ogg"
    assert (tmp_path / horn["path"]).read_bytes() == b"w" * 500
    assert prepare_open_sounds(tmp_path, permissive=True, packages=["game-data"]) == (1, 1)


@needs_dpkg
def test_a_package_without_a_licence_that_can_be_read_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("debian_inspector")
    make_package(tmp_path, "prose-data", "It is free.", {"usr/share/a.wav": b"w" * 500})
    assert prepare_open_sounds(tmp_path, packages=["prose-data"]) == (0, 1)


def test_a_package_that_cannot_be_had_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotFetchPackage, match="no-such-package: apt-get is needed"):
        prepare_open_sounds(tmp_path / "open", packages=["no-such-package"])
    assert not (tmp_path / "open" / "manifest.jsonl").exists()


def test_of_licences_that_agree_alike_the_stricter_counts() -> None:
    pytest.importorskip("debian_inspector")
    licences = read_licences(MACHINE_READABLE.replace("data/sounds/*.wav", "*"))
    found = find_licence("usr/share/x.wav", licences)
    assert found and found.name == "GPL-2+"


def test_recordings_are_decoded_once_and_told_apart_by_content(tmp_path: Path) -> None:
    """Two files of one content, a silent one, one that is no sound; a set by a folder's name."""
    import av

    def write(path: Path, samples: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=RATE)
            stream.layout = "mono"
            frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
            frame.rate = RATE
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    loud = (1000 * np.sin(np.arange(RATE))).astype(np.int16)
    write(tmp_path / "sounds/a/loud.wav", loud)
    write(tmp_path / "sounds/a/again.wav", loud)
    write(tmp_path / "sounds/b/silent.wav", np.zeros(RATE, np.int16))
    (tmp_path / "sounds/b/none.wav").write_bytes(b"no sound" * 100)
    write(tmp_path / "sounds/b/left-out.wav", 2 * loud)
    names = ("a/loud", "a/again", "b/silent", "b/none", "b/left-out")
    rows = [
        {"path": f"sounds/{name}.wav", "modality": "audio", "source": f"here:{name}"}
        for name in names
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "kept.jsonl").write_text(json.dumps({"source": ["here:b/left-out"]}) + "\n")
    wanted = read_sound_rows([tmp_path], tmp_path / "kept.jsonl")
    assert len(wanted) == 4
    recordings = Recordings.open(load_recordings(wanted, tmp_path / "cache"))
    assert recordings.sets == ["sounds/a"] and recordings.lengths.tolist() == [RATE]
    assert np.abs(recordings.sound(0)).max() == pytest.approx(1.0, abs=1e-3)
    shutil.rmtree(tmp_path / "sounds")
    again = Recordings.open(load_recordings(wanted, tmp_path / "cache"))
    assert again.hours() == pytest.approx(1 / 3600)


def test_a_trained_classifier_is_exported_as_it_is(tmp_path: Path) -> None:
    """The graph gives what the network gives, whose batch norms are folded and whose constants are
    halved but for those of the spectrogram.
    """
    torch.manual_seed(0)
    network = SoundClassifier()
    network.classes.weight.data.normal_(std=0.05)
    optimiser = torch.optim.AdamW(network.parameters())
    train.save(network, optimiser, DistilConfig(), 0, tmp_path)
    classes = torch.randn(521, 384)
    encoder = SoundEncoder(load_sound_scores(tmp_path), LinearMap(classes, torch.zeros(384))).eval()
    proto = trace_graph(encoder, "audio", sound_spec())
    halve(proto)
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    whole = [name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT]
    assert any("spectrogram.transform" in name for name in whole)
    assert any(name.endswith("_half") for name in kinds)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    waveform = torch.cat((tone(440, 5.0), tone(1000, 5.0, 0.01)))
    (vectors,) = session.run(None, {"waveform": waveform.numpy()})
    unfolded = SoundScores(network.eval())
    with torch.no_grad():
        expected = torch.nn.functional.normalize(unfolded(waveform) @ classes)
    assert (torch.from_numpy(vectors) * expected).sum(1).min() > 0.999


def test_prepare_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "clotho", str(tmp_path)]) == 2
    assert "--out names the manifest" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["prepare", "open", str(tmp_path / "open")]) == 1
    assert "0ad-data: apt-get is needed" in capsys.readouterr().err
