"""Published encoders become bundles that give the library's own vectors, its processor included.

The models are of the published classes and randomly initialised: what is proven is the path, not
their worth.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from export.bundle import NoRoute, open_bundle
from export.encoder import OnnxEncoder
from export.pretrained import (
    CannotFetch,
    UnknownFamily,
    adapt_joint_model,
    import_pretrained,
    write_published_bundle,
)
from export.verify import check_batch_invariance, probes, verify
from media.containers import Budget
from media.windows import read_media

from .makers import ROOT, make_tone, write_wav

WORDS = [
    "a",
    "the",
    "of",
    "red",
    "green",
    "blue",
    "ball",
    "dog",
    "sound",
    "rain",
    "bird",
    "barking",
    "bouncing",
    "loud",
    "quiet",
]
TEXTS = ["a red ball bouncing", "the sound of rain", "dog"]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}


def save_tokenizer(folder: Path, start: str, end: str, pad: str) -> None:
    """A tokenizer of whole words; `start` may be empty."""
    special = list(dict.fromkeys(filter(None, (start, pad, end))))
    ids = {word: i for i, word in enumerate([*special, "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = (
        normalizers.Lowercase(),
        pre_tokenizers.Whitespace(),
    )
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A {end}".strip(),
        special_tokens=[(token, ids[token]) for token in special],
    )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start or None,
        eos_token=end,
        pad_token=pad,
        model_max_length=16,
    )
    wrapped.save_pretrained(folder)


def clip(folder: Path) -> None:
    text = {
        **SMALL,
        "vocab_size": 40,
        "max_position_embeddings": 16,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    config = transformers.CLIPConfig(
        text_config={**text, "pad_token_id": 1}, vision_config=VISION, projection_dim=24
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    save_tokenizer(folder, "<start>", "<end>", "<end>")


def siglip(folder: Path) -> None:
    text = {**SMALL, "vocab_size": 40, "max_position_embeddings": 16, "projection_size": 32}
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    transformers.SiglipModel(config).save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    save_tokenizer(folder, "", "</s>", "</s>")


def xclip(folder: Path) -> None:
    text = {
        **SMALL,
        "vocab_size": 40,
        "max_position_embeddings": 16,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    vision = {
        **VISION,
        "mit_hidden_size": 24,
        "mit_intermediate_size": 32,
        "mit_num_hidden_layers": 1,
        "num_frames": 4,
    }
    vision |= {"mit_num_attention_heads": 2}
    config = transformers.XCLIPConfig(
        text_config={**text, "pad_token_id": 1}, vision_config=vision, projection_dim=24
    )
    transformers.XCLIPModel(config).save_pretrained(folder)
    told = {
        "feature_extractor_type": "VideoMAEFeatureExtractor",
        "size": 32,
        "crop_size": 32,
        "do_center_crop": True,
    }
    told |= {
        "resample": 2,
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
    }
    # as its publishers wrote it
    told |= {"image_std": [0.229, 0.224, 0.225], "processor_class": "XCLIPProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    save_tokenizer(folder, "<start>", "<end>", "<end>")


def clap(folder: Path, fused: bool = False) -> None:
    audio = {
        "hidden_size": 64,
        "patch_embeds_hidden_size": 16,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
    }
    audio |= {
        "num_mel_bins": 64,
        "spec_size": 64,
        "window_size": 4,
        "enable_fusion": fused,
        "num_hidden_layers": 2,
    }
    audio |= {"hidden_size": 32, "patch_size": 4, "patch_stride": [4, 4]}
    text = {**SMALL, "vocab_size": 40, "max_position_embeddings": 20, "pad_token_id": 1}
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
    transformers.ClapModel(config).save_pretrained(folder)
    kind = "fusion" if fused else "rand_trunc"
    extractor = transformers.ClapFeatureExtractor(
        sampling_rate=16_000,
        max_length_s=2,
        hop_length=512,
        frequency_min=50,
        frequency_max=7000,
        truncation=kind,
    )
    extractor.save_pretrained(folder)
    save_tokenizer(folder, "<s>", "</s>", "<pad>")


def library(family: str, folder: Path) -> tuple[Any, Any]:
    """The library's model and tokenizer."""
    return transformers.AutoModel.from_pretrained(
        folder
    ).eval(), transformers.AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def text_vectors(family: str, folder: Path) -> NDArray[np.float32]:
    model, tokenizer = library(family, folder)
    padding = "max_length" if family == "siglip" else True
    batch = tokenizer(TEXTS, padding=padding, return_tensors="pt")
    masked = {} if family == "siglip" else {"attention_mask": batch["attention_mask"]}
    return F.normalize(
        model.get_text_features(batch["input_ids"], **masked).pooler_output, dim=-1
    ).numpy()


@torch.no_grad()
def video_vector(family: str, folder: Path, frames: list[Image.Image]) -> NDArray[np.float32]:
    """By the library's processor and model; frames of a model of single pictures are averaged as
    directions.
    """
    model, _ = library(family, folder)
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(frames, return_tensors="pt")[
        "pixel_values"
    ]
    if family == "xclip":
        return F.normalize(
            model.get_video_features(pixels.view(1, *pixels.shape[-4:])).pooler_output, dim=-1
        ).numpy()
    each = F.normalize(model.get_image_features(pixels).pooler_output, dim=-1)
    return F.normalize(each.mean(0, keepdim=True), dim=-1).numpy()


def make_video(path: Path, seconds: int = 8) -> Path:
    """A soft pattern that drifts, wider than high; many frames, almost without loss."""
    y, x = np.mgrid[0:96, 0:128]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv444p"
        for t in range(8 * seconds):
            waves = [
                127 + 100 * np.sin(x / (9 + c) + t / 6) * np.cos(y / (13 - c)) for c in range(3)
            ]
            image = np.stack(waves, axis=-1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def frames_of(path: Path, times: list[float]) -> list[Image.Image]:
    """The frames on screen at these times, whole."""
    with av.open(str(path)) as container:
        every = [(float(frame.time or 0), frame.to_image()) for frame in container.decode(video=0)]
    return [[image for time, image in every if time <= t][-1] for t in times]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """(the library's folder, our bundle) of each family."""
    made = {}
    for family, make in {"clip": clip, "siglip": siglip, "xclip": xclip, "clap": clap}.items():
        place = tmp_path_factory.mktemp(family)
        torch.manual_seed(1)
        make(place / "published")
        import_pretrained([f"someone/{family}"], place / "bundle", [place / "published"])
        made[family] = (place / "published", place / "bundle")
    return made


@pytest.mark.parametrize("family", ["clip", "siglip", "xclip", "clap"])
def test_words_get_the_librarys_vectors(bundles: dict[str, tuple[Path, Path]], family: str) -> None:
    folder, bundle = bundles[family]
    encoder = OnnxEncoder.open(bundle)
    found = encoder.embed("text", encoder.tokens(TEXTS, "text"))
    assert (found * text_vectors(family, folder)).sum(axis=1).min() >= 0.9999
    assert all(check.good for check in check_batch_invariance(encoder)), list(
        check_batch_invariance(encoder)
    )


@pytest.mark.parametrize("family", ["clip", "siglip", "xclip"])
def test_pictures_get_the_librarys_vectors(
    bundles: dict[str, tuple[Path, Path]], family: str, tmp_path: Path
) -> None:
    """What remains is scaling: swscale's filters here, Pillow's there."""
    folder, bundle = bundles[family]
    encoder, path = OnnxEncoder.open(bundle), make_video(tmp_path / "v.mp4")
    media, spec = read_media(path, encoder.manifest.inputs, Budget()), encoder.manifest.inputs.video
    assert spec and media.parts["video"].array.shape == (1, *spec.shape)
    times = [(i + 0.5) * media.duration_s / spec.frames for i in range(spec.frames)]
    expected = video_vector(family, folder, frames_of(path, times))
    assert float(expected[0] @ encoder.embed("video", media.parts["video"].array)[0]) >= 0.999


@pytest.mark.parametrize("seconds", [2.0, 0.7])
@pytest.mark.parametrize("fused", [False, True])
def test_sounds_get_the_librarys_vectors(tmp_path: Path, seconds: float, fused: bool) -> None:
    """CLAP's spectrogram is in the graph; a sound shorter than its window is repeated, as its own
    extractor does.
    """
    torch.manual_seed(2)
    clap(tmp_path / "published", fused)
    import_pretrained(["someone/clap"], tmp_path / "bundle", [tmp_path / "published"])
    encoder = OnnxEncoder.open(tmp_path / "bundle")
    random = np.random.default_rng(0)
    wave = make_tone(seconds, 440.0, 16_000) + 0.1 * random.normal(
        size=round(seconds * 16_000)
    ).astype(np.float32)
    write_wav(tmp_path / "s.wav", wave, 16_000)
    part = read_media(tmp_path / "s.wav", encoder.manifest.inputs, Budget()).parts["audio"]
    model, _ = library("clap", tmp_path / "published")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "published")
    features = extractor(wave, sampling_rate=16_000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        longer = torch.zeros(1, 1, dtype=torch.bool)
        expected = F.normalize(
            model.get_audio_features(features, is_longer=longer).pooler_output, dim=-1
        ).numpy()
    assert float(expected[0] @ encoder.embed("audio", part.array)[0]) >= 0.999


def pe_av(folder: Path) -> Any:
    """PE-AV with a ViT for its pictures: the published one's is of a library that is not here, so
    the model is handed over as it is, and its folder holds what goes with it.
    """
    layers = {**SMALL, "head_dim": 16, "num_key_value_heads": 2}
    pictures = transformers.ViTConfig(**VISION, num_labels=24)
    video = transformers.PeVideoEncoderConfig(**layers, vision_config=pictures)
    dac = transformers.DacConfig(
        encoder_hidden_size=8, downsampling_ratios=[4, 5, 8], codebook_dim=16
    )
    audio = transformers.PeAudioEncoderConfig(**layers, dac_config=dac)
    both = transformers.PeAudioVideoEncoderConfig(**layers, audio_config=audio, video_config=video)
    words = transformers.ModernBertConfig(
        **SMALL, vocab_size=40, pad_token_id=1, max_position_embeddings=64
    )
    config = transformers.PeAudioVideoConfig(text_config=words, audio_video_config=both)
    model = transformers.PeAudioVideoModel._from_config(config, attn_implementation="eager").eval()
    folder.mkdir()
    transformers.PeAudioFeatureExtractor(sampling_rate=16_000, hop_length=160).save_pretrained(
        folder
    )
    told = {
        "size": {"height": 32, "width": 32},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 2,
    }
    # its class wants torchvision
    (folder / "video_preprocessor_config.json").write_text(json.dumps(told))
    save_tokenizer(folder, "<s>", "</s>", "<pad>")
    return model


def test_pe_av_has_a_space_for_each_pair(tmp_path: Path) -> None:
    torch.manual_seed(4)
    folder = tmp_path / "published"
    model = pe_av(folder)
    manifest = write_published_bundle(
        [adapt_joint_model("facebook/pe-av", str(folder), model)], [{}], tmp_path / "bundle"
    ).manifest
    routes = {
        pair: manifest.routes([pair.split("-")[0]], pair.split("-")[1])[0].space
        for pair in ("text-video", "text-audio", "audio-video")
    }
    assert routes == {"text-video": "video", "text-audio": "audio", "audio-video": "audio-video"}
    encoder, tokenizer = (
        OnnxEncoder.open(tmp_path / "bundle"),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    x = {e: probes(encoder, e, 3) for e in manifest.graphs}
    mean = std = torch.full((3, 1, 1), 0.5)
    pixels = (torch.from_numpy(x["video"]).float().permute(0, 1, 4, 2, 3) / 255 - mean) / std
    texts = manifest.spec("text@video").random_inputs(3, np.random.default_rng(3))
    words = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(
            input_ids=words["input_ids"],
            attention_mask=words["attention_mask"],
            pixel_values_videos=pixels,
            input_values=torch.from_numpy(x["audio"])[:, None],
        )
    expected = {
        "video": theirs.video_embeds,
        "audio": theirs.audio_embeds,
        "text@video": theirs.text_video_embeds,
        "text@audio": theirs.text_audio_embeds,
    }
    for encoding, vectors in expected.items():
        cosine = (
            (F.normalize(vectors, dim=-1).numpy() * encoder.embed(encoding, x[encoding]))
            .sum(axis=1)
            .min()
        )
        assert cosine >= (0.9999 if "text" in encoding else 0.999), (encoding, cosine)


def test_a_pair_is_one_bundle_of_two_spaces(
    bundles: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    names, folders = ["someone/siglip", "someone/clap"], [bundles["siglip"][0], bundles["clap"][0]]
    manifest = import_pretrained(names, tmp_path / "pair", folders).manifest
    encoder = OnnxEncoder.open(tmp_path / "pair")
    assert manifest.name == "siglip+clap" and set(manifest.modalities) == {"video", "text", "audio"}
    assert [manifest.routes(["text"], m)[0].space for m in ("video", "audio")] == ["siglip", "clap"]
    with pytest.raises(NoRoute, match="video lives in siglip"):
        manifest.routes(["audio"], "video")
    for family in ("siglip", "clap"):
        encoding = f"text@{family}"
        found = encoder.embed(encoding, encoder.tokens(TEXTS, encoding))
        assert (found * text_vectors(family, bundles[family][0])).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize("family", ["clip", "siglip", "xclip", "clap"])
def test_a_family_is_verified(
    bundles: dict[str, tuple[Path, Path]], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp32 is held to its limits; int8 is measured, and what R@10 it loses on random weights says
    nothing.
    """
    monkeypatch.setattr("export.verify.PROBES", "world:test:12")
    checks, graphs = (
        list(verify(bundles[family][1], "cpu")),
        open_bundle(bundles[family][1]).manifest.graphs,
    )
    assert [c.encoding for c in checks if c.precision == "fp32" and c.good] == list(graphs)
    measured = open_bundle(bundles[family][1]).manifest.variants["cpu/int8"]
    assert measured.keys() == graphs.keys() and min(m.cosine for m in measured.values()) > 0.9


@pytest.mark.parametrize("family", ["clip", "siglip", "xclip", "clap", "pair"])
def test_files_are_indexed_and_found(
    bundles: dict[str, tuple[Path, Path]], family: str, tmp_path: Path
) -> None:
    bundle = bundles[family][1] if family != "pair" else tmp_path / "pair"
    if family == "pair":
        import_pretrained(
            ["a/siglip", "a/clap"], bundle, [bundles["siglip"][0], bundles["clap"][0]]
        )
    targets = {"pair": ("video", "audio"), "clap": ("audio",)}.get(family, ("video",))
    files = {
        "video": [tmp_path / f"{n}.mp4" for n in "abc"],
        "audio": [tmp_path / f"{n}.wav" for n in "def"],
    }
    for n, path in enumerate(files["video"]):
        make_video(path, seconds=n + 1)
    for n, path in enumerate(files["audio"]):
        write_wav(path, make_tone(1.0 + n, 300.0 * (n + 1), 16_000), 16_000)
    index = [sys.executable, "-m", "index"]
    common = ["--bundle", str(bundle), "--data", str(tmp_path / "data")]
    paths = [str(path) for target in targets for path in files[target]]
    built = subprocess.run(
        [*index, "build", *common, *paths], cwd=ROOT, capture_output=True, text=True
    )
    assert built.returncode == 0 and f"{len(paths)} indexed" in built.stdout, built.stderr
    for target in targets:
        asked = [*index, "search", *common, "--text", "a red ball", "--target", target]
        found = subprocess.run(
            asked, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        assert {line.split()[-1] for line in found[1:]} == {path.name for path in files[target]}


def test_siglip_reads_capitals_as_small_letters(bundles: dict[str, tuple[Path, Path]]) -> None:
    encoder = OnnxEncoder.open(bundles["siglip"][1])
    assert (encoder.tokens(["A RED Ball"], "text") == encoder.tokens(["a red ball"], "text")).all()


def test_without_a_network_a_hub_id_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "export",
        "pretrained",
        "someone/clip-absent",
        "--out",
        str(tmp_path / "bundle"),
    ]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=offline, timeout=120
    )
    assert done.returncode == 1 and "someone/clip-absent cannot be loaded" in done.stderr, (
        done.stderr
    )
    assert not list(tmp_path.glob("bundle*"))


def test_what_cannot_be_imported_is_named_and_writes_nothing(
    bundles: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    with pytest.raises(CannotFetch, match="someone/absent"):
        import_pretrained(["someone/absent"], out, [tmp_path / "nowhere"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UnknownFamily, match="a bert"):
        import_pretrained(["someone/bert"], out, [tmp_path / "other"])
    with pytest.raises(UnknownFamily, match="another encoder of video"):
        import_pretrained(["a/clip", "a/siglip"], out, [bundles["clip"][0], bundles["siglip"][0]])
    assert not list(tmp_path.glob("bundle*"))
