"""The ResNet family: its structure beside the tutorial's, its options, and its ways of computing beside one another."""

import hashlib
import inspect
import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

import hilum
from hilum.deciding.model_folder import build
from hilum.errors import ConfigError
from hilum.modelling import speed as ways
from hilum.modelling.convolution import Conv3D
from hilum.modelling.memory import kept_memory
from hilum.modelling.resnet import DEPTHS, ResNet3D, ShortcutA, resnet18_3d
from hilum.modelling.speed import PLAIN, apply_speed, autocast, choose_speed, for_prediction, name_of
from hilum.modelling.weights.freezing import freeze
from hilum.settings.run import ModelConfig, Recipe, SpeedConfig

PINNED = {
    10: (14356546, "710325cf2f8ac701"),
    18: (33161026, "4f53a08fe5dccba1"),
    34: (63470658, "38e98f64ed7e8f1d"),
    50: (46159170, "317720624df34db4"),
    101: (85205314, "5a0d3d4194f59756"),
    152: (117364034, "8e28f2234dc5435b"),
    200: (126563650, "33936d4b7e2aa48c"),
}
"""Parameters, and a digest of all names and shapes of the state dict."""

WAYS = [
    replace(PLAIN, channels_last=order, folded_stem=stem, products=products)
    for order, stem, products in itertools.product(("off", "on"), ("off", "pairs", "blocks"), ("off", "on"))
]


@pytest.mark.parametrize("depth", DEPTHS)
def test_parameters_names_and_shapes_are_pinned(depth):
    with torch.device("meta"):
        network = ResNet3D(depth)
    text = "\n".join(f"{name} {tuple(t.shape)}" for name, t in network.state_dict().items())
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert (sum(p.numel() for p in network.parameters()), digest) == PINNED[depth]


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_named_networks_are_those_that_a_config_builds(depth):
    named = getattr(hilum, f"resnet{depth}_3d")
    settings = ModelConfig(depth=depth, width=4, stem="small")
    built = build(settings, Recipe(windows_hu=((-1000.0, 400.0), (-160.0, 240.0))), 3)
    network = named(in_channels=2, num_classes=3, width=4, stem="small").eval()
    assert {n: t.shape for n, t in network.state_dict().items()} == {n: t.shape for n, t in built.state_dict().items()}
    with torch.inference_mode():
        logits = network(torch.rand(1, 2, 12, 13, 14))
    assert logits.shape == (1, 3)
    assert logits.isfinite().all()
    with torch.device("meta"):
        assert sum(p.numel() for p in named().parameters()) == PINNED[depth][0]


@pytest.mark.parametrize("depth", [18, pytest.param(34, marks=pytest.mark.slow), 50])
def test_names_and_shapes_are_the_tutorials_and_so_are_the_logits(tutorial, depth):
    torch.manual_seed(0)
    theirs, ours = getattr(tutorial, f"resnet{depth}_3d")(), ResNet3D(depth)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm3d)):
        nn.init.uniform_(norm.weight, 0.5, 1.0)  # as after training: else a deep network's logits are huge
        nn.init.uniform_(norm.running_var, 0.9, 1.1)
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 1, 33, 28, 32)
    with torch.inference_mode():
        expected = theirs.eval()(x)
        for way in WAYS:
            apply_speed(ours.eval(), way)
            assert torch.allclose(ours(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())), name_of(way)


@pytest.mark.parametrize("stem", ["full", "small"])
@pytest.mark.parametrize("stride", [None, (1, 2, 2)])
def test_the_config_knows_the_grid_of_each_stage(stem, stride):
    network = ResNet3D(10, width=1, stem=stem, stem_stride=stride).eval()
    settings = ModelConfig(stem=stem, stem_stride=stride)
    for size in ((32, 33, 31), (1, 17, 16), (9, 8, 64)):
        stages = (network.layer1, network.layer2, network.layer3, network.layer4)
        x = network.maxpool(network.conv1(torch.zeros(1, 1, *size)))
        for number, stage in enumerate(stages, start=1):
            x = stage(x)
            assert x.shape[2:] == settings.grid_of(number, size)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depth": 19}, "depth must be one of 10, 18, 34, 50, 101, 152, 200, got 19"),
        ({"norm": "banana"}, "norm must be one of batch, group, instance, got 'banana'"),
        ({"stem": "banana"}, "stem must be one of full, small, got 'banana'"),
        ({"shortcut": "C"}, "shortcut must be one of A, B, got 'C'"),
        ({"pooling": "max"}, "pooling must be one of average, attention, got 'max'"),
        ({"stochastic_depth": 1.0}, "stochastic_depth must be at least 0 and below 1, got 1.0"),
        ({"dropout": -1.0}, "dropout must be at least 0 and below 1, got -1.0"),
        ({"in_channels": 0}, "in_channels must be positive, got 0"),
        ({"width": 0}, "width must be positive, got 0"),
        ({"stem_stride": (0, 2, 2)}, r"stem_stride must be three times 1 or 2, got \(0, 2, 2\)"),
    ],
)
def test_an_argument_that_is_none_is_one_line_that_names_it(given, message):
    with pytest.raises(ConfigError, match=message):
        inspect.unwrap(ResNet3D.__init__)(ResNet3D.__new__(ResNet3D), **given)


def test_an_input_of_another_shape_is_one_line_that_says_what_must_be():
    network = inspect.unwrap(ResNet3D.forward_features)
    with pytest.raises(ConfigError, match="the input must be cases x 1 x z x y x x, got 2 x 3 x 16 x 16 x 16"):
        network(ResNet3D(10, width=1), torch.zeros(2, 3, 16, 16, 16))


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_parameter_of_every_depth_has_a_gradient(depth):
    torch.manual_seed(0)
    network = ResNet3D(depth, in_channels=2, num_classes=3, width=4)
    network(torch.rand(2, 2, 32, 33, 34)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert sum(p.grad.abs().sum() == 0 for p in network.parameters()) == 0


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize(
    "options",
    [
        {"norm": "group"},
        {"norm": "instance"},
        {"shortcut": "A"},
        {"squeeze_excite": True},
        {"pooling": "attention"},
        {"stem": "small"},
        {"stem_stride": (1, 2, 2)},
        {"stochastic_depth": 0.2},
        {"dropout": 0.2},
        {"zero_init": True},
        {"norm": "group", "shortcut": "A", "squeeze_excite": True, "pooling": "attention", "stochastic_depth": 0.1},
    ],
    ids=str,
)
def test_every_option_gives_logits_and_gradients_to_all_its_parameters(depth, options):
    torch.manual_seed(0)
    network = ResNet3D(depth, 2, 3, width=4, **options)
    x = torch.rand(4, 2, 24, 28, 33, requires_grad=True)
    logits = network(x)
    assert logits.shape == (4, 3)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert x.grad.abs().sum() > 0 or options.get("zero_init")
    network.eval()
    with torch.inference_mode():
        features = network.forward_features(x)
        assert torch.equal(network.forward_head(features), network(x))
        assert network.forward_head(features, pre_logits=True).shape == (4, network.num_features)


@pytest.mark.parametrize(("norm", "kind"), [("group", nn.GroupNorm), ("instance", nn.InstanceNorm3d)])
def test_the_norm_is_really_everywhere(norm, kind):
    modules = list(ResNet3D(50, width=8, norm=norm).modules())
    assert not any(isinstance(m, nn.BatchNorm3d) for m in modules)
    convolutions = sum(isinstance(m, Conv3D) for m in modules)
    assert sum(isinstance(m, kind) for m in modules) == convolutions


@pytest.mark.parametrize(
    ("options", "cells"),
    [({}, (1, 2, 3)), ({"stem": "small"}, (4, 6, 10)), ({"stem_stride": (1, 2, 2)}, (2, 2, 3))],
)
def test_stems_decide_the_grid_of_the_last_stage(options, cells):
    network = ResNet3D(10, width=2, **options).eval()
    assert tuple(network.forward_features(torch.rand(1, 1, 32, 48, 80)).shape[2:]) == cells


def test_shortcut_a_takes_every_second_voxel_and_passes_the_gradient():
    x = torch.randn(2, 3, 5, 6, 7, requires_grad=True)
    out = ShortcutA(2, 2)(x)
    assert torch.equal(out[:, :3], x[:, :, ::2, ::2, ::2])
    assert (out[:, 3:] == 0).all()
    out.sum().backward()
    expected = torch.zeros_like(x)
    expected[:, :, ::2, ::2, ::2] = 1
    assert torch.equal(x.grad, expected)


def test_a_case_alone_has_the_logits_it_has_in_a_batch():
    torch.manual_seed(0)
    model = ResNet3D(10, width=4, stem="small").eval()
    x = torch.rand(3, 1, 12, 12, 12)
    with torch.inference_mode():
        assert torch.allclose(torch.cat([model(one[None]) for one in x]), model(x), atol=1e-5)


def test_blocks_start_as_the_identity_where_asked():
    model = ResNet3D(18, width=2, zero_init=True)
    assert (model.layer1[0].bn2.weight == 0).all()
    assert (ResNet3D(50, width=2, zero_init=True).layer1[0].bn3.weight == 0).all()
    assert (ResNet3D(18, width=2).layer1[0].bn2.weight == 1).all()


def test_attention_of_equal_scores_is_the_average():
    torch.manual_seed(0)
    network = ResNet3D(10, width=4, pooling="attention").eval()
    nn.init.zeros_(network.avgpool.score.weight)
    features = torch.rand(2, network.num_features, 2, 3, 4)
    pooled = network.forward_head(features, pre_logits=True)
    assert torch.allclose(pooled, features.mean(dim=(2, 3, 4)), atol=1e-6)


def test_a_case_that_skips_every_block_keeps_its_stem():
    torch.manual_seed(0)
    network = ResNet3D(10, width=4, stochastic_depth=0.9)
    x = torch.rand(1, 4, 6, 6, 6)
    block = network.layer1[0].train()
    block.skip = 0.999999
    assert torch.equal(block(x.clone()), x)
    block.eval()
    assert not torch.equal(block(x.clone()), x)


def test_stochastic_depth_keeps_the_mean_of_a_branch():
    torch.manual_seed(0)
    block = ResNet3D(10, width=4, norm="group").layer1[0].train()
    x = torch.rand(1, 4, 4, 4, 4).expand(4000, -1, -1, -1, -1)
    block.relu = nn.Identity()
    whole = block(x[:1].clone())
    block.skip = 0.4
    assert torch.allclose(block(x.clone()).mean(dim=0, keepdim=True), whole, atol=0.1)


def test_an_unknown_depth_lists_the_known_ones():
    with pytest.raises(ConfigError, match="depth must be one of 10, 18, 34, 50, 101, 152, 200, got 20"):
        ResNet3D(20)
    with pytest.raises(ConfigError, match=r"model.stem_stride must be 1 or 2 along each axis, got \(1, 2, 3\)"):
        ModelConfig(stem_stride=(1, 2, 3))


# ways of computing


@pytest.mark.parametrize(("depth", "stem"), [(18, "full"), (50, "full"), (18, "small")])
def test_every_way_has_the_logits_and_gradients_of_the_plain_one(depth, stem):
    """In double precision: in single, batch norm over few voxels magnifies what differs in the last digit."""
    torch.manual_seed(0)
    network = ResNet3D(depth, 2, width=8, stem=stem).double()
    x = torch.rand(3, 2, *((21, 24, 26) if stem == "full" else (11, 12, 14)), dtype=torch.float64)

    def computed(way):
        apply_speed(network, way)
        network.zero_grad()
        logits = network(x)
        logits.square().sum().backward()
        return logits.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])

    plain = computed(PLAIN)
    for way in WAYS:
        for got, expected in zip(computed(way), plain, strict=True):
            assert torch.allclose(got, expected, rtol=1e-6, atol=1e-8 * float(expected.abs().max())), name_of(way)


@pytest.mark.parametrize("way", ["pairs", "blocks"])
def test_the_folded_stem_is_the_plain_one_in_single_precision(way):
    torch.manual_seed(0)
    plain, folded = Conv3D(1, 64, 7, 2), Conv3D(1, 64, 7, 2)
    folded.load_state_dict(plain.state_dict())
    folded.way = way
    x = torch.rand(2, 1, 64, 63, 62)
    ours, theirs = folded(x), plain(x)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    grad = torch.randn_like(theirs)
    ours.backward(grad)
    theirs.backward(grad)
    assert (folded.weight.grad - plain.weight.grad).norm() <= 1e-5 * plain.weight.grad.norm()


def test_a_state_dict_of_any_way_loads_into_any_other():
    networks = []
    for way in [*WAYS, replace(WAYS[-1], precision="bf16")]:
        network = ResNet3D(18, width=4)
        apply_speed(network, way)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        with autocast(torch.device("cpu"), way):
            network(torch.rand(2, 1, 32, 32, 32)).sum().backward()
        optimizer.step()
        networks.append(network)
    x = torch.rand(1, 1, 32, 32, 32)
    for one, other in itertools.pairwise([*networks, networks[0]]):
        other.load_state_dict(one.state_dict())
        assert all(t.is_contiguous() and t.dtype in (torch.float32, torch.int64) for t in one.state_dict().values())
        with torch.inference_mode():
            assert torch.allclose(one.eval()(x), other.eval()(x), rtol=1e-4, atol=1e-5)


def test_the_fused_optimizer_steps_as_the_plain_one_does_in_every_way():
    """PyTorch's fused Adam is wrong on a CPU where a gradient lies otherwise in memory than its weight."""
    for way in WAYS:
        weights = []
        for fused in (True, False):
            torch.manual_seed(0)
            network = ResNet3D(10, width=4)
            apply_speed(network, way)
            optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, fused=fused)
            network(torch.rand(2, 1, 32, 32, 32)).square().sum().backward()
            optimizer.step()
            weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
        assert torch.allclose(*weights, atol=1e-6), name_of(way)


@pytest.mark.parametrize("options", [{}, {"norm": "group"}, {"shortcut": "A", "squeeze_excite": True}], ids=str)
@pytest.mark.parametrize("depth", [18, 50])
def test_a_network_for_prediction_has_the_logits_of_the_network(depth, options):
    torch.manual_seed(0)
    network = ResNet3D(depth, width=8, **options)
    for _ in range(3):
        network(torch.rand(4, 1, 40, 40, 40))
    network.eval()
    x = torch.rand(2, 1, 40, 36, 33)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    with torch.inference_mode():
        expected = network(x)
        for way in WAYS:
            assert torch.allclose(for_prediction(network, way)(x), expected, rtol=1e-4, atol=1e-4), name_of(way)
        rounded = for_prediction(network, replace(WAYS[-1], precision="bf16"))(x)
        assert rounded.dtype == torch.float32
        assert 0 < (rounded - expected).abs().max() < (0.3 if options else 0.05) * expected.abs().max()
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


@pytest.mark.parametrize("depth", [18, 50])
def test_checkpointing_changes_nothing_but_memory(depth):
    def trained(checkpointing):
        torch.manual_seed(0)
        network = ResNet3D(depth, width=4, stochastic_depth=0.3)
        network.checkpointing = checkpointing
        network(torch.rand(4, 1, 32, 32, 32)).square().sum().backward()
        return [*network.state_dict().values(), *(p.grad for p in network.parameters())]

    assert all(torch.equal(a, b) for a, b in zip(trained(True), trained(False), strict=True))


# choosing


@pytest.mark.usefixtures("real_race")
def test_a_network_that_is_frozen_in_part_is_measured_apart_as_it_trains(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network, device, seen = resnet18_3d(width=4), torch.device("cpu"), set()
    whole = choose_speed(network, (2, 1, 32, 32, 32), SpeedConfig(), device)
    freeze(network, 5)
    took = ways._seconds
    monkeypatch.setattr(
        ways, "_seconds", lambda n, *a: seen.add((n.bn1.training, n.conv1.weight.requires_grad)) or took(n, *a)
    )
    assert choose_speed(network, (2, 1, 32, 32, 32), SpeedConfig(), device).seconds != whole.seconds
    assert seen == {(False, False)}


@pytest.mark.usefixtures("real_race")
def test_what_was_chosen_is_one_of_the_ways_tried_is_remembered_and_disturbs_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    network, device = resnet18_3d(width=4), torch.device("cpu")
    before = {name: t.clone() for name, t in network.state_dict().items()}
    state = torch.get_rng_state()
    chosen = choose_speed(network, (2, 1, 32, 32, 32), SpeedConfig(), device)
    assert chosen.speed.is_resolved
    assert name_of(chosen.speed) in chosen.seconds
    assert len(chosen.seconds) >= 4
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in network.parameters())
    again = choose_speed(network, (2, 1, 32, 32, 32), SpeedConfig(), device)
    assert again == chosen, "the same seconds: nothing was measured again"
    assert choose_speed(network, (2, 1, 32, 32, 40), SpeedConfig(), device).seconds != chosen.seconds


@pytest.mark.usefixtures("real_race")
def test_what_is_forced_is_kept_and_measures_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chosen = choose_speed(resnet18_3d(width=4), (2, 1, 16, 16, 16), PLAIN, torch.device("cpu"))
    assert (chosen.speed, chosen.seconds) == (PLAIN, {})
    small = choose_speed(resnet18_3d(width=4, stem="small"), (2, 1, 16, 16, 16), SpeedConfig(), torch.device("cpu"))
    assert small.speed.folded_stem == "off"
    assert not any("stem" in name for name in small.seconds), "a stride of 1 leaves nothing to fold"
    half = choose_speed(resnet18_3d(width=4), (2, 1, 32, 32, 32), SpeedConfig(precision="bf16"), torch.device("cpu"))
    assert half.speed.precision == "bf16"
    assert all(name.startswith("bf16") for name in half.seconds)


@pytest.mark.usefixtures("real_race")
def test_a_way_that_cannot_be_computed_is_not_chosen_and_if_none_can_the_reason_is_raised(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network, device, shape = resnet18_3d(width=2), torch.device("cpu"), (2, 1, 16, 16, 16)

    def only_fp32(network, x, way, run):
        if way.precision == "bf16":
            msg = "bf16 is unknown here"
            raise RuntimeError(msg)
        return 2.0 if way.channels_last == "off" else 1.0

    monkeypatch.setattr(ways, "_seconds", only_fp32)
    chosen = choose_speed(network, shape, SpeedConfig(), device)
    assert (chosen.speed.precision, chosen.speed.channels_last) == ("fp32", "on")
    assert any(seconds == float("inf") for name, seconds in chosen.seconds.items() if name.startswith("bf16"))
    with pytest.raises(RuntimeError, match="bf16 is unknown here"):
        choose_speed(network, shape, SpeedConfig(precision="bf16"), device)


@pytest.mark.usefixtures("real_race")
def test_other_load_during_one_turn_does_not_change_the_choice(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ways, "_SECONDS", 0.0)  # as of a large network: few turns
    calls = Counter()

    def slow_once(network, x, way, run):
        calls[way.precision] += 1
        is_loaded = way.precision == "fp32" and calls["fp32"] in (3, 4)  # the first turn after the warm-up
        return 3.0 if is_loaded else 1.0 if way.precision == "fp32" else 0.9

    monkeypatch.setattr(ways, "_seconds", slow_once)
    chosen = choose_speed(resnet18_3d(width=2), (2, 1, 16, 16, 16), SpeedConfig(), torch.device("cpu"))
    assert chosen.speed.precision == "fp32"


@pytest.mark.usefixtures("real_race")
def test_a_way_that_takes_far_too_long_is_computed_once_and_no_other_is_judged_by_its_warm_up(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = Counter()

    def hopeless(network, x, way, run):
        name = name_of(way)
        calls[name] += 1
        if way.precision == "bf16":
            return 9.0 if way.channels_last == "off" else 4.0 if calls[name] == 1 else 0.5
        return 1.0

    monkeypatch.setattr(ways, "_seconds", hopeless)
    chosen = choose_speed(resnet18_3d(width=2), (2, 1, 16, 16, 16), SpeedConfig(), torch.device("cpu"))
    slow, fast = (
        next(n for n in calls if n.startswith("bf16") and ("channels last" in n) == last) for last in (False, True)
    )
    assert (calls[slow], chosen.seconds[slow]) == (1, 9.0)
    assert calls[fast] > 2
    assert chosen.speed.precision == "bf16"


@pytest.mark.usefixtures("real_race")
def test_a_way_that_is_none_is_not_believed_but_measured_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network, device, shape = resnet18_3d(width=2), torch.device("cpu"), (2, 1, 16, 16, 16)
    chosen = choose_speed(network, shape, SpeedConfig(), device)
    file = tmp_path / "hilum" / "speed.json"
    file.write_text(file.read_text().replace(f'"precision": "{chosen.speed.precision}"', '"precision": "int8"'))
    assert choose_speed(network, shape, SpeedConfig(), device).speed.precision != "int8"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', "\udcff"])
def test_a_damaged_memory_of_what_was_measured_is_measured_anew(monkeypatch, tmp_path, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network, device, shape = resnet18_3d(width=2), torch.device("cpu"), (2, 1, 16, 16, 16)
    choose_speed(network, shape, SpeedConfig(), device)
    file = tmp_path / "hilum" / "speed.json"
    file.write_text(content, errors="surrogateescape")
    assert choose_speed(network, shape, SpeedConfig(), device).speed.is_resolved
    assert file.read_text().startswith("{\n")


def test_kept_memory_gives_the_same_numbers_and_ends():
    with kept_memory():
        kept = torch.ones(10**7).cumsum(0)
    assert torch.equal(kept, torch.ones(10**7).cumsum(0))
