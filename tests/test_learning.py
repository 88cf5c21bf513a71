"""bears.training.learning: weights without a download, photos decoded once, and nothing lost by being fast."""

import copy
import pickle
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from conftest import draw_folder, draw_loaders, draw_shape, run_python
from fastai.callback.fp16 import MixedPrecision
from fastai.vision.all import create_body, model_meta, vision_learner
from sklearn.datasets import load_sample_image
from torch import nn

from bears.memory import available
from bears.novelty import forward, pooled
from bears.photos import open_photo
from bears.training import TrainingError
from bears.training.layouts import photo_files
from bears.training.learning import (
    DecodedOnce,
    averaged,
    callbacks,
    fitting_batch,
    origin,
    pretrained,
    pretrained_layer,
)

# The weights

TINY = "test_resnet.r160_in1k"  # timm's, for tests


def test_the_packaged_weights_recognise_what_imagenet_taught_them():
    """A wrong order of tensors would still load: what they see on a photo of a temple by a lake tells."""
    arch = "tf_efficientnet_lite0"
    model = timm.create_model(arch, pretrained=True, **pretrained(arch)).eval()
    photo = torch.tensor(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        logits = model(torch.nn.functional.interpolate(photo, (224, 224), mode="bilinear", antialias=True))
    plausible = {442: "bell cote", 449: "boathouse", 483: "castle", 663: "monastery", 698: "palace", 975: "lakeside"}
    assert set(logits[0].topk(5).indices.tolist()) <= set(plausible)


def test_the_layer_that_was_cut_off_names_what_imagenet_taught(tmp_path):
    dls, _ = draw_loaders(tmp_path, 10, 32)
    arch = "tf_efficientnet_lite0"
    learner = vision_learner(dls, arch, lin_ftrs=[], **pretrained(arch))
    layer = pretrained_layer(learner)
    whole = timm.create_model(arch, pretrained=True, **pretrained(arch)).eval()
    photos = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        activations, _ = forward(learner.model.eval(), photos)
        assert torch.allclose(layer(pooled(activations)), whole(photos), atol=1e-3)

    learner.model[0].model.conv_stem.weight.data *= 2
    assert pretrained_layer(learner) is None, "it does not fit features that are no longer those it was made for"


@pytest.mark.filterwarnings("ignore:.*deprecated since 0.13:UserWarning")  # fastai's way to ask
@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v3_small", "squeezenet1_0"])
def test_torchvisions_networks_have_such_a_layer_or_none(tmp_path, monkeypatch, name):
    arch = getattr(torchvision.models, name)
    torch.manual_seed(0)
    network = arch(weights=None).eval()  # as if downloaded
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: network)
    dls, _ = draw_loaders(tmp_path, 10, 32)
    learner = vision_learner(dls, arch, pretrained=False, lin_ftrs=[])
    body = create_body(network, pretrained=False, cut=model_meta.get(arch, {"cut": None})["cut"])
    learner.model[0].load_state_dict(body.state_dict())
    layer = pretrained_layer(learner)
    assert (layer is network.fc) if name == "resnet18" else layer is None


@pytest.fixture
def hub():
    """Answers as the Hugging Face Hub does when it is asked for one of timm's networks: weights that are all 1/8."""
    ones = {name: torch.full_like(tensor, 0.125) for name, tensor in timm.create_model(TINY).state_dict().items()}
    content = safetensors.torch.save(ones)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            found = self.path == f"/timm/{TINY}/resolve/main/model.safetensors"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(content) if found else 0))
            self.send_header("ETag", '"1"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if found and self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_weights_that_no_package_has_are_downloaded(hub, tmp_path):
    code = f"""
import bears, timm
from bears.training.learning import pretrained
print(pretrained("{TINY}"))
import huggingface_hub
huggingface_hub.constants.HF_HUB_OFFLINE = True
network = timm.create_model("{TINY}", pretrained=True)
print({{tensor.unique().item() for tensor in network.parameters()}})
"""
    assert run_python(code, env={"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path)}).split("\n")[-3:] == [
        "{}",
        "{0.125}",
        "",
    ]


@pytest.mark.parametrize("arch", [f'"{TINY}"', "torchvision.models.resnet18"])
def test_where_they_cannot_be_downloaded_a_sentence_says_so(tmp_path, arch):
    nowhere = "http://127.0.0.1:9"
    code = f"""
import bears, torchvision
from bears.training import TrainingError
from bears.training.learning import pretrained
try:
    pretrained({arch})
except TrainingError as error:
    print("said:", error)
"""
    env = {"HF_ENDPOINT": nowhere, "HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path), "https_proxy": nowhere}
    name = arch.strip('"').removeprefix("torchvision.models.")
    said = run_python(code, env=env).partition("said: ")[2]
    assert said.startswith(f"The weights of {name} could not be downloaded (") and "lite0" in said


@pytest.mark.parametrize(
    "arch, words",
    [
        ("tf_efficientnet_lite2", "Google's EfficientNet-Lite2"),
        ("resnet18", "timm's weights for resnet18 (licence: apache-2.0)"),
        (torchvision.models.resnet18, "torchvision's weights for resnet18"),
    ],
)
def test_where_the_weights_come_from_is_said(arch, words):
    assert words in origin(arch)


@pytest.mark.parametrize("arch", ["tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k"])
def test_timms_full_name_of_the_packaged_weights_is_theirs_too(arch):
    assert pretrained(arch) and "Google's EfficientNet-Lite0" in origin(arch)


@pytest.mark.parametrize("photos, size", [(1, 1), (3, 3), (14, 4), (28, 4), (70, 8), (200, 25), (256, 32), (9000, 32)])
def test_a_batch_is_as_large_as_asked_or_smaller_so_that_an_epoch_has_steps(photos, size):
    assert fitting_batch(photos, 32) == size
    assert fitting_batch(photos, 2) == min(photos, 2)


@pytest.mark.parametrize("arch", ["resnet17", "resnet18.nobodys", "tf_efficientnet_lite2.nobodys"])
def test_a_network_that_does_not_exist(arch):
    with pytest.raises(TrainingError, match=f"timm knows no network '{arch}'"):
        pretrained(arch)


# Speed without a difference


def test_a_decoded_photo_is_the_photo_and_comes_from_memory(tmp_path):
    folder = draw_folder(tmp_path, 2)
    files = photo_files(folder)
    opened = DecodedOnce(files, side=96)
    assert opened(files[0]).tobytes() == open_photo(files[0]).tobytes()
    files[0].unlink()
    assert opened(files[0]).size == (96, 96)
    assert len(pickle.dumps(opened)) < 1000, "the pictures are no part of an export"


def test_a_photo_that_does_not_fit_into_memory_is_decoded_when_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("bears.training.learning.CACHE_BYTES", 3 * 96 * 96 * 3)
    files = photo_files(draw_folder(tmp_path, 2))
    opened = DecodedOnce(files, side=96)
    assert [opened(file).size for file in files] == [(96, 96)] * 6


@pytest.mark.parametrize("files, expected", [
    ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   4 kB\n"}, 4096),
    ({"proc/meminfo": "MemAvailable: 4 kB", "memory.max": "3000\n", "memory.current": "1000\n"}, 2000),
    ({"proc/meminfo": "MemAvailable: 4 kB", "memory.max": "max\n", "memory.current": "1000\n"}, 4096),
    ({"memory/memory.limit_in_bytes": "3000", "memory/memory.usage_in_bytes": "5000"}, 0),
])  # fmt: skip
def test_memory_is_what_the_machine_or_the_container_has(tmp_path, files, expected):
    for name, text in files.items():
        file = tmp_path / (name if name.startswith("proc") else f"sys/fs/cgroup/{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert available(tmp_path) == expected


def test_where_nothing_says_how_much_memory_there_is_it_is_guessed(tmp_path):
    assert available(tmp_path) > 2**20


def test_photos_are_kept_in_no_more_memory_than_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr("bears.training.learning.available", lambda: 5 * 96 * 96 * 3 / 2)
    files = photo_files(draw_folder(tmp_path, 2))
    assert len(DecodedOnce(files, side=96)._kept) == 1


def test_a_large_photo_is_kept_no_larger_than_needed(tmp_path):
    (tmp_path / "circle").mkdir()
    file = tmp_path / "circle" / "large.png"
    draw_shape("circle", 1, size=500).resize((700, 500)).save(file)
    assert DecodedOnce([file], side=100)(file).size == (140, 100)


def resident(code: str) -> list[int]:
    """What a fresh Python with that code prints: megabytes, wherever it says `say()`."""
    head = """
import re
from bears.memory import give_memory_back, keep_memory
def say():
    print(int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""
    return [*map(int, run_python(head + code).split())]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_that_training_frees_is_kept_for_the_next_batch():
    """In a process of its own, because it cannot be undone."""
    batch = "block = bytearray(b'x') * (256 << 20); del block; say()"
    (freed,), (kept,) = resident(batch), resident(f"keep_memory(); {batch}")
    assert kept > freed + 200


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_that_serving_frees_is_given_back():
    """What lies between blocks that are in use glibc keeps by itself."""
    before, after = resident("""
blocks = [bytearray(4000) for _ in range(50_000)]
del blocks[:-1]
say()
give_memory_back()
say()
""")
    assert after < before - 150


def test_training_keeps_the_statistics_of_the_pretrained_network(tmp_path):
    dls, _ = draw_loaders(tmp_path, 10, 32)
    arch = "tf_efficientnet_lite0"
    learner = vision_learner(dls, arch, lin_ftrs=[], first_bn=False, cbs=callbacks(), **pretrained(arch))
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(1)
    after = learner.model.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if "running" in name} <= same
    assert not [name for name in same if name.endswith("weight")], "all weights have learnt"


def test_half_precision_is_for_gpus():
    kinds = [type(callback) for callback in callbacks(torch.device("cpu"))]
    assert MixedPrecision not in kinds
    assert [type(callback) for callback in callbacks(torch.device("cuda"))] == [*kinds, MixedPrecision]


def test_the_mean_of_several_runs_from_one_start(tmp_path):
    dls, _ = draw_loaders(tmp_path, 10, 32)
    learner = vision_learner(dls, "resnet18", pretrained=False, lin_ftrs=[])
    start = copy.deepcopy(learner.model.state_dict())
    ends = []

    def train(run):
        assert all(torch.equal(now, start[name]) for name, now in learner.model.state_dict().items())
        torch.manual_seed(run)
        learner.unfreeze()
        with learner.no_bar(), learner.no_logging():
            learner.fit(1, 1e-3)
        assert all(step["step"] <= len(dls.train) for step in learner.opt.state.values() if "step" in step)
        ends.append(copy.deepcopy(learner.model.state_dict()))

    averaged(learner, train, 3)
    assert len(ends) == 3
    for name, weights in learner.model.state_dict().items():
        mean = torch.stack([end[name].double() for end in ends]).mean(0)
        assert weights.dtype == start[name].dtype and torch.allclose(weights.double(), mean, atol=1e-5)
    assert not torch.equal(ends[0]["1.4.weight"], ends[1]["1.4.weight"]), "else the mean is nothing new"


def test_a_mean_loses_nothing_to_narrow_numbers():
    learner = SimpleNamespace(model=nn.Module(), opt=None)
    learner.model.register_buffer("narrow", torch.tensor([30000.0]).half())
    learner.model.register_buffer("mask", torch.tensor([200], dtype=torch.uint8))
    learner.model.register_buffer("count", torch.tensor(30_000_001))
    averaged(learner, lambda run: None, 3)
    assert [tensor.item() for tensor in learner.model.state_dict().values()] == [30000, 200, 30_000_001]
    with pytest.raises(TrainingError, match="Make it 1 or more"):
        averaged(learner, lambda run: None, 0)
