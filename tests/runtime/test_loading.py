"""Loading obeys its options, tells how far it is, stops at once, tries less when memory is refused, and says why it failed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bq.runtime import loading
from bq.runtime.cpu import Cores
from bq.runtime.devices import Device
from bq.runtime.errors import BqError, Cancelled, UsageError
from bq.runtime.fit import Machine, Plan
from bq.runtime.fit_advice import compare
from bq.runtime.gguf_file import read_gguf
from bq.runtime.host import Memory
from bq.runtime.loading import LoadOptions, choose, load
from bq.runtime.memory import HOST
from bq.runtime.page_cache import read_ahead
from bq.runtime.sampling import Sampling

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 256, "heads": 4, "ffn": 704}
GREEDY = Sampling(temperature=0, repeat_penalty=1)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux' page cache and address space limit")


@pytest.fixture
def path(converted: Convert) -> Path:
    return converted("b2-7b", "Q8_0", **SMALL)


def test_the_plan_is_told_before_loading_and_kept_with_what_was_used(path: Path) -> None:
    told: list[Plan] = []
    heard: list[float] = []
    options = LoadOptions(ctx=512, threads=1)

    def on_plan(plan: Plan) -> None:
        assert heard in ([], [0.0]) or max(heard) <= 0.9
        told.append(plan)

    with load(path, options, lambda fraction: heard.append(fraction) is None, on_plan) as model:
        assert told == [model.fit.plan]
        assert model.fit.failed == ()
        predicted, used = model.fit.plan.estimate.of(HOST), model.fit.used.of(HOST)
        assert predicted.weights + predicted.kv == pytest.approx(used.weights + used.kv, rel=0.02)
        assert "used" in compare(model.fit)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(ctx=512, threads=1, kv="q8_0", batch=16),
        LoadOptions(ctx=512, threads=1, mmap=False),
        LoadOptions(ctx=512, threads=1, mmap=True, mlock=True),
        LoadOptions(ctx=512, threads=1, n_seq=8, outputs=1),
        LoadOptions(ctx=512, threads=1, device="cpu", gpu_layers=7, batch=1),
    ],
)
def test_every_way_of_loading_answers_the_same(path: Path, options: LoadOptions) -> None:
    with load(path, LoadOptions(ctx=512, threads=1)) as model:
        expected = "".join(model.complete("the model reads", sampling=GREEDY, max_tokens=8))
    with load(str(path), options) as model:
        setting = model.fit.plan.setting
        assert (setting.kv, setting.batch) == (options.kv or "f16", options.batch or 512)
        said = "".join(model.complete("the model reads", sampling=GREEDY, max_tokens=8))
        assert model.info.context == 512
    assert said == expected or options.kv == "q8_0"  # which rounds keys and values


def test_the_kv_type_and_batch_are_llama_cpps_too(path: Path) -> None:
    with (
        load(path, LoadOptions(ctx=512, threads=1)) as f16,
        load(path, LoadOptions(ctx=512, threads=1, kv="q8_0", batch=64)) as q8,
    ):
        assert q8.fit.used.of(HOST).kv == pytest.approx(f16.fit.used.of(HOST).kv * 34 / 64, rel=0.01)
        assert q8.fit.used.of(HOST).compute < f16.fit.used.of(HOST).compute / 4


@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(kv="q4_0"),
        LoadOptions(ctx=63),
        LoadOptions(ctx=-5),
        LoadOptions(batch=0),
        LoadOptions(batch=16385),
        LoadOptions(threads=0),
        LoadOptions(threads=1025),
        LoadOptions(gpu_layers=-1),
        LoadOptions(n_seq=0),
        LoadOptions(n_seq=257),
        LoadOptions(outputs=0),
        LoadOptions(outputs=16385),
        LoadOptions(device="CUDA9"),
        LoadOptions(device=" , "),
    ],
)
def test_what_llama_cpp_would_end_the_process_for_is_refused(path: Path, options: LoadOptions) -> None:
    with pytest.raises(UsageError) as caught:
        load(path, options)
    assert caught.value.remedy


def test_a_context_longer_than_the_models_is_said(path: Path) -> None:
    with load(path, LoadOptions(ctx=9999, threads=1)) as model:
        assert model.info.context == 4096
        assert "not 9999" in model.warnings[-1]


@pytest.mark.parametrize("failed", [True, False])
def test_weights_that_could_not_be_locked_are_said(path: Path, monkeypatch: pytest.MonkeyPatch, failed: bool) -> None:
    """llama.cpp only logs it (llama-mmap.cpp); an administrator's process cannot make it fail."""
    load_really = loading._load

    def load_and_log(*given: Any) -> Any:
        model, log = load_really(*given)
        said = "warning: failed to mlock 4096-byte buffer (after previously locking 0 bytes): Cannot allocate memory\n"
        return model, log.replace("failed to mlock", "") + said * failed

    monkeypatch.setattr(loading, "_load", load_and_log)
    with load(path, LoadOptions(ctx=256, threads=1, mlock=True)) as model:
        assert any("--mlock" in warning for warning in model.warnings) == failed


@pytest.mark.parametrize("at", [0, 1, 5])
def test_loading_stops_where_it_is_told_to(path: Path, at: int) -> None:
    heard: list[float] = []

    def progress(fraction: float) -> bool:
        heard.append(fraction)
        return len(heard) <= at

    with pytest.raises(Cancelled):
        load(path, LoadOptions(threads=1), progress)
    assert len(heard) == at + 1  # and asks no more


@pytest.mark.parametrize("at", [0, 1, 5])
def test_what_a_progress_function_raises_ends_the_loading_and_is_heard(path: Path, at: int) -> None:
    heard: list[float] = []

    def progress(fraction: float) -> bool:
        heard.append(fraction)
        if len(heard) > at:
            raise KeyError("its own")
        return True

    with pytest.raises(KeyError, match="its own"):
        load(path, LoadOptions(threads=1), progress)
    assert len(heard) == at + 1  # and is asked no more


@pytest.mark.parametrize(
    ("failing", "expected"),
    [("llama_init_from_model", ["model"]), ("Model", ["context", "model"])],
)
def test_what_fails_on_the_way_leaves_nothing_in_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, expected: list[str]
) -> None:
    """Freeing is llama.cpp's own; here it is also noted."""

    def fail(*_: object) -> Any:
        raise OSError("gone")

    freed: list[str] = []
    lib = loading.library()
    for what, name in (("context", "llama_free"), ("model", "llama_model_free")):
        free = getattr(lib, name)
        monkeypatch.setattr(lib, name, lambda pointer, what=what, free=free: (freed.append(what), free(pointer)))
    monkeypatch.setattr(loading if failing == "Model" else lib, failing, fail)
    with pytest.raises(OSError, match="gone"):
        load(path, LoadOptions(ctx=64, threads=1))
    assert freed == expected


@linux_only
def test_a_file_that_is_not_in_memory_yet_is_read_with_progress(tmp_path: Path) -> None:
    """llama.cpp maps it in one call that reads it all, and could neither tell nor stop."""
    cold = tmp_path / "cold.bin"
    cold.write_bytes(bytes(40 << 20))
    with cold.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    heard: list[float] = []
    assert not read_ahead(cold, lambda fraction: heard.append(fraction) or len(heard) < 2)
    if len(heard) < 2:
        pytest.skip("this file system keeps what it was told to drop")
    assert read_ahead(cold, lambda fraction: heard.append(fraction) is None)
    assert 0 < max(heard) < 1
    heard.clear()
    assert read_ahead(cold, lambda fraction: heard.append(fraction) is None)
    assert heard == []  # all of it is there now


def test_reading_ahead_leaves_what_it_cannot_read_to_the_loader(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert read_ahead(tmp_path / "none", lambda _: False)
    assert read_ahead(tmp_path / "empty", lambda _: False)
    assert read_ahead(tmp_path, lambda _: False)


_IN_LITTLE_SPACE = """
import resource, sys
from pathlib import Path
from bq.runtime.loading import LoadOptions, load
from bq.runtime.errors import BqError
path, room = Path(sys.argv[1]), int(sys.argv[2]) << 20
one = LoadOptions(threads=1, **eval(sys.argv[3]))
load(path, LoadOptions(ctx=64, threads=1)).close()
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + room, size + room))
told = []
try:
    model = load(path, one, None, told.append)
    print("loaded", len(model.fit.failed), flush=True)
except BqError as error:
    print(error)
print([(plan.setting.ctx, plan.setting.kv) for plan in told])
"""


def in_little_space(path: Path, mib: int, **options: int) -> list[str]:
    """What a process says that may take so much more address space than it has after a first load."""
    command = [sys.executable, "-c", _IN_LITTLE_SPACE, str(path), str(mib), repr(options)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@linux_only
def test_refused_memory_is_answered_with_less_and_never_the_same_twice(path: Path) -> None:
    """The KV cache of 16,384 tokens takes 512 MiB in f16 and 272 in q8_0; all else takes less than 100."""
    told = in_little_space(path, 440, n_seq=4, ctx=16384)
    assert told == ["loaded 1", "[(16384, 'f16'), (16384, 'q8_0')]"]


@linux_only
def test_when_nothing_works_the_error_is_one_line_of_llama_cpps(path: Path) -> None:
    text, told = in_little_space(path, 45)
    assert text.startswith(f"llama.cpp could not load {path.name}: ")
    assert "alloc" in text
    tried = eval(told)
    assert len(set(tried)) == len(tried) >= 2


@pytest.mark.parametrize(("buffer", "is_gpus"), [("CUDA0", True), ("CPU", False)])
def test_the_advice_names_the_gpus_layers_where_it_had_no_room(path: Path, buffer: str, is_gpus: bool) -> None:
    """The log is that of a CUDA build on a GPU that something else had filled."""
    gpu = Device("CUDA0", "", "gpu", "CUDA", 8 << 30, 8 << 30)
    plan = choose(read_gguf(path), Machine((gpu,), Memory(16 << 30, 16 << 30), Cores(2, 2)), LoadOptions())[0]
    assert plan.devices == ("CUDA0",)
    log = f"alloc_tensor_range: failed to allocate {buffer} buffer of size 4321361920\n"
    error = loading._failure(path, [(4, log)], plan)
    assert isinstance(error, loading._NoRoom)
    assert ("fewer --gpu-layers" in error.remedy) == is_gpus
    assert "--kv q8_0" in error.remedy


def test_a_model_that_does_not_fit_is_refused_before_anything_is_allocated(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Machine((Device("CPU", "", "cpu", "CPU", 0, 0),), Memory(64 << 20, 40 << 20), Cores(2, 2))
    monkeypatch.setattr(loading, "this_machine", lambda *_: tiny)
    monkeypatch.setattr(loading, "_load", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(BqError, match=r"needs \d+ MiB of memory .* 40 MiB are free.*--force-fit"):
        load(path)
    assert len(choose(read_gguf(path), tiny, LoadOptions(force_fit=True))) == 1
    assert choose(read_gguf(path), tiny, LoadOptions(force_fit=True, ctx=4096))[0].setting.ctx == 4096


def test_a_file_that_llama_cpp_does_not_take_is_not_tried_again(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less memory would not mend it. The check of the file's structure, which refuses such a file before, is left out."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(path.read_bytes().replace(b"blk.31.ffn_up", b"blk.31.ffn_uq"))
    monkeypatch.setattr(loading, "check_structure", lambda _: None)
    told: list[Plan] = []
    with pytest.raises(
        BqError,
        match=r"could not load broken.gguf: check_tensor_dims: tensor 'blk\.31\.ffn_up.weight' not found\. `--debug`",
    ):
        load(broken, LoadOptions(threads=1), None, told.append)
    assert len(told) == 1
