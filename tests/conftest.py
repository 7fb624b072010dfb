"""What all test folders share: nothing of the user's own state, and converted models made once per session."""

import gc
import os
import re
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

# Threads of numpy's products and of llama.cpp otherwise wait for each other by spinning, on cores that other tests have taken.
# Both are read when the libraries are loaded, and sentencepiece brings an OpenMP of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

# A GPU rounds in ways of its own, and most of these tests compare to the last digits: they see none with CUDA, ROCm and Vulkan.
# The empty list means none to Vulkan's backend and all to ROCm's.
if os.environ.get("BQ_TEST_GPU", "0") == "0":
    os.environ.update({"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "GGML_VK_VISIBLE_DEVICES": ""})

import pytest
from hypothesis import HealthCheck, settings

from tests.support.families import Family, Shape, write_checkpoint

ROOT = Path(__file__).resolve().parent.parent
DEMO_CHECKPOINT = ROOT / "demo" / "checkpoint"
SHARED_DATA = ROOT.parent / "shared" / "data"

Convert = Callable[..., Path]

# On a busy machine every example may take long: no test is about that.
settings.register_profile("bq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bq")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """`-n auto`: more than there are cores, because tests of the app and of processes wait a good part of their time."""
    from bq.runtime.cpu import usable_cores

    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None  # xdist minds it
    return usable_cores() + min(usable_cores(), 2)


def pytest_collection_finish() -> None:
    """The search for garbage took a fifth of the time of the app's tests: what was imported stays, and the rest can wait."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)


@pytest.fixture(scope="session")
def fresh_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Each test takes its own: pytest's look through all that were made before, which thousands of tests pay for."""
    root = tmp_path_factory.mktemp("tests")
    return (root / str(number) for number in count())


@pytest.fixture
def tmp_path(fresh_folders: Iterator[Path], request: pytest.FixtureRequest) -> Path:
    """As pytest's own, with the test's name in its end."""
    folder = next(fresh_folders)
    folder = folder.with_name(f"{folder.name}-{re.sub(r'[^0-9A-Za-z_]', '_', request.node.name)[:30]}")
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def own_home(fresh_folders: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a BQ_HOME of its own and reads English; a language that it sets ends with it."""
    from bq.runtime import language, llama

    home = next(fresh_folders)
    home.mkdir()
    monkeypatch.setenv("BQ_HOME", str(home))
    monkeypatch.setenv("BQ_LANG", "en")
    monkeypatch.setattr(language, "_current", None)
    monkeypatch.setattr(llama, "_echo", False)
    return home


@pytest.fixture(scope="session")
def bq_command() -> Path:
    """The installed `bq`, of the environment that runs the tests."""
    path = Path(sys.executable).with_name("bq.exe" if os.name == "nt" else "bq")
    if not path.is_file():
        pytest.skip(f"bq is not installed beside {sys.executable}")
    return path


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """`converted("b2-7b", "Q4_K_M", hidden=256, ...)`: the GGUF file of a random checkpoint, made once per arguments.

    Keywords are the fields of tests.support.families.Shape; the checkpoint lies in the folder beside the file.
    """
    made: dict[Any, Path] = {}

    def make(family: Family, mixture: str = "F32", **shape: Any) -> Path:
        key = (family, mixture, *sorted(shape.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            write_checkpoint(folder / "checkpoint", Shape(family, **shape))
            made[key] = convert_folder(folder / "checkpoint", folder / f"{family}-{mixture}.gguf", mixture)
        return made[key]

    return make


@pytest.fixture(scope="session")
def demo_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled checkpoint as Q8_0."""
    if not (DEMO_CHECKPOINT / "pytorch_model.bin").is_file():
        pytest.skip("demo/checkpoint is not there: demo/train.py makes it")
    return convert_folder(DEMO_CHECKPOINT, tmp_path_factory.mktemp("demo") / "bq-demo-Q8_0.gguf", "Q8_0", "bq-demo")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Files of public releases, beside the repository; they are not ours to ship."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not there: it holds the real Baichuan tokenizers")
    return SHARED_DATA


def convert_folder(folder: Path, out: Path, mixture: str = "F32", name: str | None = None) -> Path:
    """Convert a checkpoint and return the file."""
    from bq.convert.convert import convert, prepare

    convert(prepare(folder, mixture, name=name), out, threads=2)
    return out


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`scripted({195: 300, ...}, family="b2-7b", chat=True)`: a GGUF file whose greedy answer is that script."""
    from tests.support.scripted import write_scripted

    def make(follows: dict[int, int], **shape: Any) -> Path:
        folder = tmp_path_factory.mktemp("scripted")
        write_scripted(folder / "checkpoint", follows, **shape)
        return convert_folder(folder / "checkpoint", folder / "scripted-F32.gguf")

    return make
