"""Weights that others trained: what is loaded is what they computed, and what does not fit is said."""

import gzip
import os
import pickle
import re
import tarfile
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from hilum.errors import CheckpointError
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.weights.matching import load_weights


def trained(network):
    """Weights and statistics as training leaves them: none is zero or one."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.copy_(torch.rand(tensor.shape, generator=random) + 0.5)
            elif tensor.ndim == 1 and tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=random) * 0.1)
    return network.eval()


def logits(network, x):
    with torch.inference_mode():
        return network.eval()(x)


def agree(ours, theirs):
    return torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def small(depth=18, **options):
    torch.manual_seed(0)
    return ResNet3D(depth, width=4, **options)


def renamed(state, *rules):
    for old, new in rules:
        state = {re.sub(old, new, name): tensor for name, tensor in state.items()}
    return state


def saved_with(change, path):
    """A small network's trained state, changed, as it lies in the file."""
    state = trained(small(10)).state_dict()
    change(state)
    torch.save(state, path)
    return state


def before(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def untouched(network, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


# who wrote it


@pytest.mark.parametrize("depth", [18, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (34, 50))])
def test_the_tutorials_weights_give_the_tutorials_logits(tutorial, tmp_path, depth):
    torch.manual_seed(0)
    theirs = trained(getattr(tutorial, f"resnet{depth}_3d")())
    torch.save(theirs.state_dict(), tmp_path / "tutorial.pth")
    ours = ResNet3D(depth)
    report = load_weights(ours, tmp_path / "tutorial.pth")
    x = torch.rand(1, 1, 24, 28, 32)
    assert agree(logits(ours, x), logits(theirs, x))
    assert report.source == "the tutorial or Hilum"
    assert report.holds == f"ResNet-{depth} of width 64, shortcut B"
    assert not report.changed
    assert not report.skipped
    assert not report.missing


@pytest.mark.parametrize("depth", [18, 50])
def test_monais_weights_give_monais_logits_and_their_biases_go_into_the_running_means(tmp_path, depth):
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(0)
    theirs = getattr(nets, f"resnet{depth}")(n_input_channels=1, num_classes=3, conv1_t_stride=2, widen_factor=0.25)
    torch.save(trained(theirs).state_dict(), tmp_path / "monai.pt")
    ours = ResNet3D(depth, num_classes=3, width=16)
    report = load_weights(ours, tmp_path / "monai.pt")
    x = torch.rand(2, 1, 32, 32, 32)
    assert agree(logits(ours, x), logits(theirs, x))
    assert report.source == "MONAI"
    assert {how for _, how in report.changed} == {"less the bias of the convolution before it"}
    assert not report.missing


def test_biases_before_a_batch_norm_change_no_logit_and_are_named_as_monai_names_them(tmp_path):
    theirs = small()
    for stage in (theirs.layer2, theirs.layer3, theirs.layer4):
        stage[0].downsample[0].bias = nn.Parameter(torch.zeros(stage[0].downsample[0].out_channels))
    torch.save(trained(theirs).state_dict(), tmp_path / "monai.pt")
    assert "layer2.0.downsample.0.bias" in theirs.state_dict()
    ours = small()
    report = load_weights(ours, tmp_path / "monai.pt")
    x = torch.rand(1, 1, 20, 20, 20)
    assert agree(logits(ours, x), logits(theirs, x))
    assert report.source == "MONAI"
    assert [name for name, _ in report.changed] == [f"layer{i}.0.downsample.1.running_mean" for i in (2, 3, 4)]


def reference_with_shortcut_a(state, x):
    """ResNet-18 with shortcut A, from the names in the file alone."""

    def norm(x, name):
        return F.batch_norm(x, *(state[f"{name}.{of}"] for of in ("running_mean", "running_var", "weight", "bias")))

    x = F.max_pool3d(F.relu(norm(F.conv3d(x, state["conv1.weight"], stride=2, padding=3), "bn1")), 3, 2, 1)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            out = F.conv3d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            out = F.conv3d(F.relu(norm(out, f"{name}.bn1")), state[f"{name}.conv2.weight"], padding=1)
            out = norm(out, f"{name}.bn2")
            shortcut = torch.zeros_like(out)
            shortcut[:, : x.shape[1]] = x[:, :, ::stride, ::stride, ::stride]
            x = F.relu(out + shortcut)
    return x


def test_medicalnets_weights_without_shortcuts_or_head_give_the_features_of_shortcut_a(tmp_path):
    state = {name: t for name, t in trained(small(shortcut="A")).state_dict().items() if not name.startswith("fc.")}
    seg = {"conv_seg.0.weight": torch.rand(32, 32, 2, 2, 2), "conv_seg.1.running_mean": torch.rand(32)}
    named = {f"module.{name}": tensor for name, tensor in (state | seg).items()}
    torch.save({"epoch": 3, "state_dict": named}, tmp_path / "resnet_18.pth.tar")
    ours = small(shortcut="A", num_classes=3)
    fresh = before(ours)
    report = load_weights(ours, tmp_path / "resnet_18.pth.tar")
    x = torch.rand(1, 1, 32, 36, 40)
    with torch.inference_mode():
        assert agree(ours.eval().forward_features(x), reference_with_shortcut_a(state, x))
    assert report.source == "MedicalNet"
    assert report.holds == "ResNet-18 of width 4, shortcut A"
    assert [name for name, _ in report.skipped] == ["conv_seg.0.weight", "conv_seg.1.running_mean"]
    assert report.missing == ("fc.weight", "fc.bias")
    assert torch.equal(ours.fc.weight, fresh["fc.weight"])
    assert "dilates its last two stages" in str(report)


VIDEO = (
    (r"^conv1\.", "stem.0."),
    (r"^bn1\.", "stem.1."),
    (r"^(layer\d\.\d\.)conv(\d)\.", r"\1conv\2.0."),
    (r"^(layer\d\.\d\.)bn(\d)\.", r"\1conv\2.1."),
)


def video():
    """What r3d_18 computes, of width 4: a stem of 3x7x7 that strides in the plane and does not pool, in RGB."""
    network = small(in_channels=3, num_classes=400)
    network.conv1 = nn.Conv3d(3, 4, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
    network.maxpool = nn.Identity()
    return trained(network)


def test_the_video_networks_weights_compute_the_same_where_strides_and_pooling_do(tmp_path):
    theirs = video()
    state = renamed(theirs.state_dict(), *VIDEO)
    assert {"stem.0.weight", "stem.1.running_var", "layer1.0.conv1.0.weight", "layer2.0.downsample.1.bias"} <= set(
        state
    )
    torch.save(state, tmp_path / "r3d_18.pth")
    ours = small(stem_stride=(1, 2, 2))
    report = load_weights(ours, tmp_path / "r3d_18.pth")
    x = torch.rand(1, 1, 12, 24, 24)
    ours.maxpool = nn.Identity()
    with torch.inference_mode():
        assert agree(ours.eval().forward_features(x), theirs.forward_features(x.expand(-1, 3, -1, -1, -1)))
    assert report.source == "torchvision video"
    assert report.changed == (
        (
            "conv1.weight",
            "a kernel of 3x7x7 within zeros of 7x7x7, which computes the same; 3 channels summed",
        ),
    )
    assert {why for _, why in report.skipped} == {"of 400 classes, this network has 2"}
    assert "does not pool" in str(report)


class Plane(nn.Module):
    """ResNet-10 for images, written out: torchvision's names and arithmetic."""

    def __init__(self, width, in_channels):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        planes = width
        for stage in range(4):
            out = width * 2**stage
            block = nn.Module()
            stride = 2 if stage else 1
            block.conv1, block.bn1 = nn.Conv2d(planes, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
            block.conv2, block.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
            if stage:
                down = nn.Conv2d(planes, out, 1, stride, bias=False)
                block.downsample = nn.Sequential(down, nn.BatchNorm2d(out))
            self.add_module(f"layer{stage + 1}", nn.Sequential(block))
            planes = out
        self.fc = nn.Linear(planes, 1000)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            block = stage[0]
            out = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
            x = F.relu(out + (block.downsample(x) if hasattr(block, "downsample") else x))
        return x


def test_an_inflated_network_sees_in_the_middle_of_a_constant_volume_what_it_saw_in_the_image(tmp_path):
    torch.manual_seed(0)
    theirs = trained(Plane(4, 3))
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    ours = small(10)
    report = load_weights(ours, tmp_path / "resnet.pth")
    image = torch.rand(1, 1, 40, 48)
    with torch.inference_mode():
        volume = image[:, :, None].expand(-1, -1, 416, -1, -1)  # the middle is beyond the reach of the ends
        features = ours.eval().forward_features(volume)
        expected = theirs(image.expand(-1, 3, -1, -1))
    assert agree(features[:, :, features.shape[2] // 2], expected)
    assert report.source == "a ResNet for 2D images"
    assert len(report.changed) == 12
    assert "inflated along z" in str(report)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_model_folder_of_hilums_is_loaded_whole(trained_run, kind):
    path = trained_run / "model" / ("" if kind == "folder" else "weights.safetensors")
    ours = ResNet3D(10, width=4, stem="small")
    report = load_weights(ours, path)
    assert report.source == "Hilum"
    assert len(report.matched) == len([n for n in ours.state_dict() if "num_batches" not in n])
    assert not report.skipped
    assert not report.missing


# the first and the last layer


@pytest.mark.parametrize(("theirs", "ours"), [(3, 1), (1, 3), (3, 2), (1, 1), (3, 3)])
def test_a_grey_volume_is_seen_alike_whatever_the_number_of_channels(tmp_path, theirs, ours):
    there = trained(small(10, in_channels=theirs))
    save_file(there.state_dict(), tmp_path / "w.safetensors")
    here = small(10, in_channels=ours)
    load_weights(here, tmp_path / "w.safetensors")
    x = torch.rand(1, 1, 24, 24, 24)
    assert agree(logits(here, x.expand(-1, ours, -1, -1, -1)), logits(there, x.expand(-1, theirs, -1, -1, -1)))


def test_a_stem_of_another_kernel_stays_fresh_with_its_norm_and_is_said(tmp_path):
    torch.save(trained(small(10)).state_dict(), tmp_path / "w.pth")
    network = small(10, stem="small")
    fresh = before(network)
    report = load_weights(network, tmp_path / "w.pth")
    kept = ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var")
    assert report.missing == kept
    assert all(torch.equal(network.state_dict()[name], fresh[name]) for name in kept)
    assert set(report.skipped) == {(name, "its stem's kernel is 7x7x7, this network's 3x3x3") for name in kept}
    assert not torch.equal(network.layer1[0].conv1.weight, fresh["layer1.0.conv1.weight"])


def test_a_kernel_of_an_image_is_said_as_it_is_in_the_file(tmp_path):
    torch.save(trained(Plane(4, 3)).state_dict(), tmp_path / "w.pth")
    report = load_weights(small(10, stem="small"), tmp_path / "w.pth")
    assert dict(report.skipped)["conv1.weight"] == "its stem's kernel is 7x7, this network's 3x3x3"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("fc.weight"), "the file has no fc.weight, and a head is loaded whole"),
        (lambda s: s.pop("fc.bias"), "the file has no fc.bias, and a head is loaded whole"),
        (
            lambda s: s.update({"fc.weight": torch.rand(3, 32), "fc.bias": torch.rand(3)}),
            "of 3 classes, this network h",
        ),
        (
            lambda s: s.update({"fc.weight": torch.rand(2, 32, 1, 1)}),
            "of shapes (2, 32, 1, 1) and (2,), this network's are (2, 32) and (2,)",
        ),
        (
            lambda s: s.update({"fc.weight": torch.tensor(1.0)}),
            "of shapes () and (2,), this network's are (2, 32) and (2,)",
        ),
    ],
)
def test_a_head_is_loaded_as_a_whole_or_left_fresh(tmp_path, change, says):
    state = saved_with(change, tmp_path / "w.pth")
    network = small(10)
    fresh = before(network)
    report = load_weights(network, tmp_path / "w.pth")
    assert report.missing == ("fc.weight", "fc.bias")
    assert {name for name, _ in report.skipped} == {name for name in ("fc.weight", "fc.bias") if name in state}
    assert all(why.startswith(says) for _, why in report.skipped)
    assert all(torch.equal(network.state_dict()[name], fresh[name]) for name in report.missing)


def test_options_that_the_file_knows_nothing_of_stay_fresh(tmp_path):
    torch.save(trained(small(10)).state_dict(), tmp_path / "w.pth")
    network = small(10, squeeze_excite=True, pooling="attention")
    report = load_weights(network, tmp_path / "w.pth")
    assert {name.split(".")[2] for name in report.missing if name.startswith("layer")} == {"se"}
    assert {name.split(".")[0] for name in report.missing if not name.startswith("layer")} == {"avgpool"}


def test_running_statistics_have_no_place_in_a_group_norm(tmp_path):
    torch.save(trained(small(10)).state_dict(), tmp_path / "w.pth")
    report = load_weights(small(10, norm="group"), tmp_path / "w.pth")
    assert {why for _, why in report.skipped} == {"this network's norm keeps no running statistics"}
    assert not report.missing


# what does not fit


@pytest.mark.parametrize(
    ("theirs", "ours", "says"),
    [
        ((50, {}), (18, {}), r"holds a ResNet-50 of width 4, shortcut B; model\.depth is 18$"),
        ((18, {"width": 8}), (18, {}), r"holds a ResNet-18 of width 8, shortcut B; model\.width is 4$"),
        ((18, {"shortcut": "A"}), (18, {}), r"ResNet-18 of width 4, shortcut A; model\.shortcut is B$"),
        (
            (34, {"shortcut": "A"}),
            (50, {}),
            r"holds a ResNet-34 of width 4, shortcut A; model\.depth is 50, model\.shortcut is B$",
        ),
        ((18, {"squeeze_excite": True}), (18, {}), r"holds layer1\.0\.se\.fc1\.weight, for which .* no place$"),
    ],
)
def test_another_network_is_an_error_that_says_which(tmp_path, theirs, ours, says):
    torch.save(ResNet3D(theirs[0], **({"width": 4} | theirs[1])).state_dict(), tmp_path / "w.pth")
    network = small(ours[0], **ours[1])
    state = before(network)
    with pytest.raises(CheckpointError, match=says):
        load_weights(network, tmp_path / "w.pth")
    assert untouched(network, state)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.update({"layer4.0.conv2.weight": torch.rand(32, 32, 1, 3, 3)}), r"\(32, 32, 1, 3, 3\), this netw"),
        (lambda s: s.pop("layer4.0.conv2.weight"), r"holds no layer4\.0\.conv2\.weight, which this network has"),
        (lambda s: s.pop("layer3.0.bn1.weight"), r"holds no layer3\.0\.bn1\.weight"),
        (lambda s: s["layer4.0.bn2.bias"].fill_(torch.nan), r"finite real numbers, layer4\.0\.bn2\.bias has others"),
        (lambda s: s.update({"layer4.0.conv9.weight": torch.rand(3)}), r"holds layer4\.0\.conv9\.weight, for which"),
        (lambda s: s.update({"conv1.weight": torch.rand(5, 1, 7, 7, 7)}), r"holds conv1\.weight of shape \(5, 1, 7"),
        (
            lambda s: s.update({f"ema.{k}": v for k, v in list(s.items())}),
            r"holds 2 networks, by the names '', 'ema\.'",
        ),
        (lambda s: s.pop("layer1.0.conv1.weight"), r"holds no ResNet: none of its \d+ tensors, such as bn1\.bias"),
        (
            lambda s: s.update({"layer1.0.conv1.weight": torch.tensor(1.0)}),
            r"must hold convolutions in 2D or 3D, its layer1\.0\.conv1\.weight has shape \(\)$",
        ),
        (lambda s: s.update({"bn1.weight": torch.tensor(1.0)}), r"holds bn1\.weight of shape \(\), this network's"),
        (
            lambda s: s.update({k: v.to("meta") for k, v in s.items()}),
            r"holds conv1\.weight without its values: it was saved from PyTorch's meta device$",
        ),
        (
            lambda s: s["layer2.0.bn1.running_var"][1].fill_(-0.5),
            r"must hold variances of at least 0, layer2\.0\.bn1\.running_var has -0\.5$",
        ),
        (lambda s: s["bn1.running_var"].fill_(torch.inf), r"finite real numbers, bn1\.running_var has others$"),
        (
            lambda s: s.update({"conv1.weight": torch.zeros(4, 0, 7, 7, 7)}),
            r"holds conv1\.weight of shape \(4, 0, 7, 7, 7\), this network's is \(4, 1, 7, 7, 7\)$",
        ),
        (lambda s: s.update({"conv1.weight": torch.zeros(4, 1, 0, 7, 7)}), r"shape \(4, 1, 0, 7, 7\), this network's"),
        (lambda s: s.update({"conv1.weight": s["conv1.weight"] * 1j}), r"real numbers, conv1\.weight has others$"),
        (lambda s: s.update({"bn1.bias": s["bn1.bias"] * 1j}), r"real numbers, bn1\.bias has others$"),
        (
            lambda s: s.update({"layer1.0.conv1.bias": torch.ones(4) * 1j}),
            r"real numbers, layer1\.0\.conv1\.bias has others$",
        ),
        (lambda s: s.clear(), "holds no ResNet: none of its 0 tensors is a"),
    ],
)
def test_a_file_that_fits_in_part_is_an_error_and_changes_nothing(tmp_path, change, says):
    saved_with(change, tmp_path / "w.pth")
    network = small(10)
    fresh = before(network)
    with pytest.raises(CheckpointError, match=says):
        load_weights(network, tmp_path / "w.pth")
    assert untouched(network, fresh)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": small(10).state_dict(), "more": Evil()}, "w.pth")
    with pytest.raises(CheckpointError, match=r"^w\.pth: cannot be loaded: .*code is not run$"):
        load_weights(small(10), "w.pth")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("length", [0, 1, 7, 100, 5000, -1])
def test_a_damaged_file_is_an_error_in_one_line(tmp_path, name, length):
    path = tmp_path / name
    state = small(10).state_dict()
    save_file(state, path) if name.endswith("s") else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="cannot be loaded") as error:
        load_weights(small(10), path)
    assert "\n" not in str(error.value)


def an_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes/a.txt", "notes")


def a_tar(path):
    path.with_name("a.txt").write_text("notes")
    with tarfile.open(path, "w") as archive:
        archive.add(path.with_name("a.txt"), "a.txt")


def torchscript(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(path))


def exported(path):
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"epoch,loss\n101,0.5\n", "it is a text file, not weights"),
        (("Gewichte f\u00fcr alle. " * 999).encode(), "it is a text file, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132\n", "it is a Git LFS pointer, not th"),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "it is a web page (HTML), not weights"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "it is an XML file, not weights"),
        (gzip.compress(b"weights" * 99, mtime=0), "it is compressed by gzip"),
        (b"", "it is empty"),
    ],
    ids=["text", "long text", "LFS", "HTML", "XML", "gzip", "empty"],
)
def test_what_came_instead_of_weights_is_said(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_weights(small(10), tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: cannot be loaded: {says}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (an_archive, "it is a zip archive that torch.save did not write"),
        (a_tar, "it is a tar archive; unpack it first"),
        (torchscript, "it is a TorchScript archive, which holds code; give the state dict"),
        (exported, "it is an exported program (torch.export); give the state dict"),
    ],
)
def test_an_archive_of_something_else_is_said_and_nobody_is_advised_to_run_code(tmp_path, write, says):
    write(tmp_path / "w.pt2")
    with pytest.raises(CheckpointError) as error:
        load_weights(small(10), tmp_path / "w.pt2")
    assert str(error.value).startswith(f"{tmp_path / 'w.pt2'}: cannot be loaded: {says}")
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize(("kind", "other"), [("safetensors", ".pth"), ("pth", ".safetensors")])
def test_a_file_that_is_named_as_the_other_kind_is_said_to_be(tmp_path, kind, other):
    (save_file if kind == "safetensors" else torch.save)(small(10).state_dict(), tmp_path / f"w.{kind}")
    (tmp_path / f"w.{kind}").rename(tmp_path / f"v{other}")
    with pytest.raises(CheckpointError, match=rf"cannot be loaded: it is a [a-z. ]+; name it \.{kind}$"):
        load_weights(small(10), tmp_path / f"v{other}")


def test_a_tensor_alone_is_no_network(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"none of its 1 tensors is a layer1\.0\.conv1\.weight$"):
        load_weights(small(10), tmp_path / "w.pth")


def test_pytorch_adds_no_line_of_its_own_to_a_file_that_is_refused(tmp_path, recwarn):
    (tmp_path / "w.pth").write_bytes(pickle.dumps(["not", "by", "torch.save"], protocol=4))
    with pytest.raises(CheckpointError):
        load_weights(small(10), tmp_path / "w.pth")
    assert not recwarn.list


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_said_in_our_words(tmp_path, new, share):
    torch.save(small(10).state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"w\.pth: cannot be loaded: it is damaged or cut off; fetch it again$"):
        load_weights(small(10), tmp_path / "w.pth")


def test_an_address_is_not_fetched_and_is_printed_as_it_was_typed(tmp_path):
    for path in ("https://x.org/a.pth", tmp_path / "https:/x.org/a.pth"):  # below the config's folder
        with pytest.raises(CheckpointError, match=r"^https://x\.org/a\.pth is an address, .*nothing is downloaded$"):
            load_weights(small(10), path)


def test_a_run_folder_leads_to_its_model(trained_run):
    with pytest.raises(CheckpointError, match=r"is a run folder, its weights are .*model$"):
        load_weights(small(10), trained_run)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"there are no weights .*nowhere\.pth"):
        load_weights(small(10), tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match=r"there are no weights .*weights\.safetensors"):
        load_weights(small(10), tmp_path)


def test_the_state_of_an_optimizer_is_said_to_lie_beside_the_network(tmp_path):
    network = trained(small(10))
    torch.save(
        {"model": network.state_dict(), "optimizer": {"state": {0: {"exp_avg": torch.rand(3)}}, "lr": 0.1}},
        tmp_path / "w.pt",
    )
    ours = small(10)
    report = load_weights(ours, tmp_path / "w.pt")
    assert report.skipped == (("optimizer.state.0.exp_avg", "beside the network"),)
    assert untouched(ours, network.state_dict())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_weights_of_another_precision_are_loaded_as_float32(tmp_path, kind):
    state = {n: t.to(kind) if t.is_floating_point() else t for n, t in trained(small(10)).state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    network = small(10)
    load_weights(network, tmp_path / "w.pth")
    assert all(torch.equal(tensor, state[n].to(tensor.dtype)) for n, tensor in network.state_dict().items())
    assert network.fc.weight.dtype == torch.float32


def test_sparse_and_complex_tensors_are_no_weights(tmp_path):
    state = small(10).state_dict()
    for change, says in ((torch.Tensor.to_sparse, r"holds no layer2\.0"), (lambda t: t * 1j, "finite real numbers")):
        torch.save(state | {"layer2.0.conv1.weight": change(state["layer2.0.conv1.weight"])}, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match=says):
            load_weights(small(10), tmp_path / "w.pth")


def test_loaded_weights_lie_in_memory_as_fresh_ones_do(tmp_path):
    """PyTorch's fused Adam takes weight and gradient to lie alike."""
    state = {
        k: v.to(memory_format=torch.channels_last_3d) if v.ndim == 5 else v for k, v in small(10).state_dict().items()
    }
    torch.save(state, tmp_path / "w.pth")
    network = small(10)
    load_weights(network, tmp_path / "w.pth")
    assert all(p.is_contiguous() and p.dtype == torch.float32 for p in network.parameters())
