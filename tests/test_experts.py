"""Experts in the trunk: routing and balance by hand, what they cost, and the way to a service."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from export.bundle import Joint
from export.encoder import OnnxEncoder
from export.to_onnx import export_checkpoint
from export.verify import check_batch_invariance, check_torch_parity
from media.errors import BadConfig
from model.config import TrainConfig
from model.methods.experts import Experts, Settings, balance, make_experts, rows
from model.network.transformer import Block, Mlp, key_bias
from model.training.checkpoint import load
from model.training.loop import new_model, train
from model.training.tables import make_network

from .makers import serving
from .test_methods import assert_same, config_of, gradients_of

SMOKE = TrainConfig.load("smoke")
EXPERTS = {"experts": {"experts": 3, "chosen": 2, "every": 1}}


class Times(nn.Module):
    """An expert that multiplies by a number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return self.number * x


def two_of(chosen: int) -> Experts:
    """Two experts, of 10 x and 100 x, and a router of logits log 3 and 0 for the token (1, 0), 0
    and log 3 for (0, 1).
    """
    layer = Experts(2, experts=2, chosen=chosen).double()
    layer.experts = nn.ModuleList([Times(10.0), Times(100.0)])
    with torch.no_grad():
        layer.router.weight.copy_(torch.log(torch.tensor(3.0)) * torch.eye(2))
    return layer


def test_a_token_goes_to_the_likest_expert_and_is_weighted_by_it() -> None:
    """Probabilities are 3/4 and 1/4. With one choice the gate is 3/4, with two 3/4 and 1/4."""
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    one = two_of(1)(x)[0]
    assert one[0].tolist() == pytest.approx([0.75 * 10, 0], abs=1e-5)
    assert one[1].tolist() == pytest.approx([0, 0.75 * 100], abs=1e-5)
    two = two_of(2)(x)[0]
    assert two[0].tolist() == pytest.approx([0.75 * 10 + 0.25 * 100, 0], abs=1e-5)
    assert two[1].tolist() == pytest.approx([0, 0.75 * 100 + 0.25 * 10], abs=1e-5)


def test_two_chosen_of_three_share_one_gate() -> None:
    """Probabilities 5/8, 2/8 and 1/8: the first two have gates of 5/7 and 2/7."""
    layer = Experts(1, experts=3, chosen=2)
    with torch.no_grad():
        layer.router.weight.copy_(torch.tensor([[5.0], [2.0], [1.0]]).log())
    _, gates, chosen = layer.route(torch.ones(1, 1, 1))
    assert gates[0, 0].tolist() == pytest.approx([5 / 7, 2 / 7])
    assert chosen[0, 0].tolist() == [0, 1]


def test_the_balance_of_loads_by_hand() -> None:
    """Even loads have 1 for each layer. Everything on one of two experts has at most 2."""
    assert balance(torch.tensor([2.0, 2.0, 2.0, 2.0]), 2).item() == pytest.approx(1.0)
    assert balance(torch.tensor([4.0, 0.0, 4.0, 0.0]), 2).item() == pytest.approx(2.0)
    two_layers = torch.tensor([2.8, 1.2, 3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    assert balance(two_layers, 2).item() == pytest.approx(2.2)


def test_only_tokens_that_are_there_are_counted() -> None:
    """Three tokens, of which the last is padding."""
    layer = two_of(1).train()
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]], dtype=torch.float64)
    layer(x, key_bias(torch.tensor([[True, True, False]])))
    assert layer.load is not None
    assert layer.load[0].tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0], abs=1e-6)
    layer(x)
    assert layer.load[0].tolist() == pytest.approx([1.25, 1.75, 1.0, 2.0], abs=1e-6)


@pytest.mark.parametrize("chosen", [1, 2])
def test_gradients_are_those_of_differences(chosen: int) -> None:
    """Of the input, through the experts and the gates, and of the balance."""
    torch.manual_seed(3)
    layer = Experts(4, experts=3, chosen=chosen).double().train()
    x = torch.randn(2, 3, 4, dtype=torch.float64)

    def run(given: Tensor) -> Tensor:
        out = layer(given).sum((1, 2))
        assert layer.load is not None
        return torch.cat([out, balance(layer.load.sum(0), 3)[None]])

    assert torch.autograd.gradcheck(run, x.requires_grad_(), eps=1e-6, atol=1e-5)


def test_a_vector_does_not_depend_on_what_shares_its_batch() -> None:
    torch.manual_seed(0)
    model = make_network(replace(SMOKE, methods=EXPERTS)).eval()
    frames = torch.randint(0, 256, (5, *SMOKE.encoder.video.shape), dtype=torch.uint8)
    words = torch.randint(4, 200, (5, 7))
    with torch.no_grad():
        for modality, x in (("video", frames), ("text", words)):
            together = model.embed(modality, x)
            alone = torch.cat([model.embed(modality, row[None]) for row in x])
            assert (together - alone).abs().max() < 1e-6


def count_forward(mlp: nn.Module, tokens: int, width: int) -> int:
    block = Block(width, 4, True, make_mlp=lambda *_: mlp)
    with FlopCounterMode(display=False) as counter:
        block(torch.randn(1, tokens, width), [("video", tokens)], None)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("chosen", [1, 2])
def test_what_a_token_costs(chosen: int) -> None:
    """A dense MLP takes 8 D^2 products a token; k experts take k times that, and their router n D.

    So one of eight experts costs a block as much as the dense MLP, and a router, at 4.5 times the
    weights of it.
    """
    width, tokens, experts = 64, 40, 8
    dense = Mlp(width)
    sparse = make_experts(width, 0, settings=Settings(experts=experts, chosen=chosen, weight=0.05))
    assert sparse is not None
    costs = [count_forward(mlp, tokens, width) // (2 * tokens) for mlp in (dense, sparse)]
    print(f"products a token: dense {costs[0]}, {chosen} of {experts} experts {costs[1]}")
    assert costs[1] - costs[0] == (chosen - 1) * 8 * width**2 + experts * width
    sizes = [sum(p.numel() for p in mlp.parameters()) for mlp in (dense, sparse)]
    assert sizes[1] == experts * sizes[0] + experts * width


def test_experts_stand_in_the_first_of_each_so_many_blocks() -> None:
    encoder = replace(SMOKE.encoder, depth=3)
    model = make_network(replace(SMOKE, encoder=encoder, methods={"experts": {}}))
    kinds = [type(block.mlp) for block in model.blocks]
    assert kinds == [Experts, Mlp, Experts]
    assert isinstance(model.decoder[0].mlp, Mlp)
    with pytest.raises(BadConfig, match="chosen lies between"):
        rows(Settings(chosen=5))


def test_activations_that_are_computed_anew_have_the_same_gradients() -> None:
    config = config_of("two_experts")
    assert_same(gradients_of(replace(config, recompute=True)), gradients_of(config))


def test_experts_train_resume_export_and_serve(tmp_path: Path) -> None:
    """A resumed run goes on with the experts; its bundle has its vectors, and its weights of
    sound; a service answers with it.
    """
    config = replace(
        SMOKE,
        manifests=("world:train:8",),
        validation="world:validation:8",
        batch=8,
        steps=4,
        checkpoint_steps=2,
        methods=EXPERTS | {"valor": {"learned": True}},
        threads=1,
    )
    media, whole, stopped = (tmp_path / name for name in ("media", "whole", "stopped"))
    train(config, whole, resume=False, media=media, log=lambda _: None)
    train(replace(config, steps=2), stopped, resume=False, media=media, log=lambda _: None)
    before = load(stopped)[0].state_dict()
    train(config, stopped, resume=True, media=media, log=lambda _: None)
    moved = [
        name
        for name, x in load(stopped)[0].state_dict().items()
        if not torch.equal(x, before[name])
    ]
    assert any("mlp.router" in name for name in moved) and any("experts.2" in n for n in moved)
    figures = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0.9 < figures["expert_balance"] < 3.0
    bundle = export_checkpoint(whole, tmp_path / "bundle")
    encoder = OnnxEncoder.open(bundle.folder)
    checks = [*check_batch_invariance(encoder), *check_torch_parity(encoder, whole / "checkpoint")]
    assert all(check.good for check in checks), checks
    model, (joint,) = load(whole)[0], encoder.manifest.routes(["text"], "any")
    assert isinstance(joint.target, Joint) and model.fusion is not None
    seen, heard = (torch.nn.functional.normalize(torch.randn(7, SMOKE.encoder.dim)) for _ in "va")
    weights = joint.target.weights(seen.numpy(), heard.numpy())
    with torch.no_grad():
        assert abs(weights - model.fusion(seen, heard).numpy()).max() < 1e-6
    with serving(tmp_path / "data", "--bundle", str(bundle.folder), port=8494) as (client, _):
        answer = client.post("/v1/embed/text", json={"texts": ["a red ball"]})
        assert answer.status_code == 200
    plain = replace(config, methods={}, start_from=str(whole))
    with pytest.raises(BadConfig, match="other blocks"):
        new_model(plain, tmp_path / "none.json")
