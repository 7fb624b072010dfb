"""Makes `.venv` for this machine: chooses llama.cpp's backend, builds it, installs bq and its tools. Standard library only.

CUDA where nvcc and an NVIDIA GPU are there, Metal on Apple silicon, else the CPU; on a machine with an NVIDIA GPU but no nvcc it
stops rather than build for the CPU in silence. Run again it finds everything done and returns at once, without network.

    python tools/make_venv.py            # BACKEND=cpu|cuda|metal in the environment overrides the choice, RPC=1 adds RPC
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
RECEIPT = VENV / "bq-environment.json"
LEAST_PYTHON = (3, 10)
CMAKE_ARGS = {
    "cpu": "",
    "cuda": "-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=native",
    "metal": "-DGGML_METAL=on",
}
RPC_ARGS = "-DGGML_RPC=on"
NINJA_STEP = re.compile(r"^\s*\[\s*(\d+)[/%](\d+)?")


def main() -> int:
    """Make the environment; returns the exit status."""
    if sys.version_info < LEAST_PYTHON:
        return fail(
            f"Python {platform.python_version()} is too old; bq needs 3.10 or newer. Try PYTHON=python3.12 make demo."
        )
    backend, why = choose_backend()
    if backend is None:
        return fail(why)
    if receipt(backend) == read_receipt():
        return 0
    print(f"llama.cpp backend: {backend} ({why}){', with RPC' if wants_rpc() else ''}", flush=True)
    if (problem := missing_tools(backend)) is not None:
        return fail(problem)
    if not has_pip():  # missing, or left half made by an interrupted run
        print(f"Making {VENV.name} with Python {platform.python_version()}", flush=True)
        try:
            venv.create(VENV, with_pip=True, clear=True)
        except subprocess.CalledProcessError:
            return fail("Python has no pip for a new environment; on Debian or Ubuntu: sudo apt install python3-venv")
    if not has_llama(backend) and install_llama(backend) != 0:
        return fail(f"Building llama.cpp failed; the whole output is in {log_path()}.")
    if pip("install", "--quiet", "--editable", f"{ROOT}[dev,fast]") != 0:
        return fail("Installing bq failed; see the lines above.")
    if not has_llama(backend):
        return fail(f"llama.cpp was built without what was asked for; see {log_path()}, or take BACKEND=cpu RPC=0.")
    link_for_types()
    RECEIPT.write_text(json.dumps(receipt(backend)))
    return 0


def fail(text: str) -> int:
    """Say why, and give the exit status."""
    print(f"bq: {text}", file=sys.stderr)
    return 1


def choose_backend() -> tuple[str | None, str]:
    """(backend, why), or (None, what to do) on a machine whose GPU would be left unused."""
    asked = asked_backend()
    if asked and asked not in CMAKE_ARGS:
        return None, f"BACKEND={asked}: choose cpu, cuda or metal"
    if asked:
        return asked, "asked for by BACKEND"
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "metal", "Apple silicon"
    gpu = nvidia_gpu()
    if gpu is None:
        amd = " (an AMD GPU is here; bq does not build for it)" if Path("/dev/kfd").exists() else ""
        return "cpu", "no NVIDIA GPU and no Apple silicon here" + amd
    if nvcc() is None:
        return None, (
            f"{gpu} is here, but not the CUDA compiler (nvcc). Install the CUDA toolkit, or accept a slow CPU build "
            "with BACKEND=cpu."
        )
    return "cuda", f"{gpu}, {nvcc()}"


def asked_backend() -> str:
    """What BACKEND says, or said when the environment was made: a choice once made holds for the next `make` too."""
    return os.environ.get("BACKEND") or (read_receipt() or {}).get("asked", "")


def wants_rpc() -> bool:
    """Whether other machines are to be used: what RPC says, or said when the environment was made."""
    return (os.environ.get("RPC") or (read_receipt() or {}).get("rpc", "0")) == "1"


def nvidia_gpu() -> str | None:
    """The name of an NVIDIA GPU that can be used, if there is one."""
    smi = shutil.which("nvidia-smi")
    if smi is not None:
        listed = subprocess.run([smi, "-L"], capture_output=True, text=True)
        if listed.returncode == 0 and listed.stdout.startswith("GPU"):
            return listed.stdout.splitlines()[0].partition(" (UUID")[0]
    return "An NVIDIA GPU" if Path("/dev/nvidia0").exists() else None


def nvcc() -> str | None:
    """The CUDA compiler, in PATH or where toolkits put it."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    return shutil.which("nvcc") or next(
        (found for home in homes if home and (found := shutil.which("nvcc", path=f"{home}/bin"))), None
    )


def missing_tools(backend: str) -> str | None:
    """What has to be installed before llama.cpp can be built, None if nothing."""
    if has_llama(backend) or any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        return None
    remedy = {
        "darwin": "xcode-select --install",
        "win32": "install the Visual Studio Build Tools with C++",
    }.get(sys.platform, "on Debian or Ubuntu: sudo apt install build-essential")
    return f"There is no C++ compiler, and llama.cpp has to be built: {remedy}"


def python_of(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def has_pip() -> bool:
    """Whether the environment is there and can install packages."""
    python = python_of(VENV)
    return python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0


def has_llama(backend: str) -> bool:
    """Whether the environment holds llama.cpp built for `backend`, and with RPC if that is wanted."""
    if not python_of(VENV).exists():
        return False
    checks = ["True"]  # a library that is broken does not load
    checks += ["llama_cpp.llama_supports_gpu_offload()"] if backend != "cpu" else []
    checks += ["llama_cpp.llama_supports_rpc()"] if wants_rpc() else []
    code = f"import sys, llama_cpp; sys.exit(not ({' and '.join(checks)}))"
    return subprocess.run([python_of(VENV), "-c", code], capture_output=True).returncode == 0


def log_path() -> Path:
    return VENV / "llama-cpp-build.log"


def requirement() -> str:
    """llama-cpp-python as pyproject.toml asks for it."""
    found = re.search(r'"(llama-cpp-python[^"]*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return found[1] if found else "llama-cpp-python"


def install_llama(backend: str) -> int:
    """Build llama.cpp and show how far it is; pip's exit status."""
    print(
        "Building llama.cpp; the first time this takes some minutes (about 13 minutes of one core's time).", flush=True
    )
    environment = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)}
    asked = [os.environ.get("CMAKE_ARGS", ""), CMAKE_ARGS[backend], RPC_ARGS if wants_rpc() else ""]
    environment["CMAKE_ARGS"] = " ".join(asked).strip()
    # pip keeps built wheels whatever they were built for: one made for the CPU alone must not come back on another build.
    fresh = ["--no-cache-dir", "--force-reinstall"] if backend != "cpu" or wants_rpc() else []
    command = [str(python_of(VENV)), "-m", "pip", "install", "--verbose", *fresh, requirement()]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    with log_path().open("w", encoding="utf-8") as log:
        show_build(process, log)
    return process.wait()


def show_build(process: "subprocess.Popen[str]", log: object) -> None:
    """Copy the build's output to the log and its progress to the screen: a line that grows, or one per tenth."""
    begun = time.monotonic()
    shown = -1
    for line in process.stdout or ():
        log.write(line)  # type: ignore[attr-defined]
        step = NINJA_STEP.match(line)
        if step is None:
            continue
        percent = 100 * int(step[1]) // int(step[2]) if step[2] else int(step[1])
        if sys.stdout.isatty():
            print(f"\r  building llama.cpp: {percent:3d} %  {time.monotonic() - begun:4.0f} s", end="", flush=True)
        elif percent // 10 > shown:
            print(f"  building llama.cpp: {percent:3d} %  {time.monotonic() - begun:4.0f} s", flush=True)
        shown = percent // 10
    print(
        "" if sys.stdout.isatty() and shown >= 0 else f"  llama.cpp is ready after {time.monotonic() - begun:.0f} s",
        flush=True,
    )


def pip(*arguments: str) -> int:
    """Run the environment's pip."""
    return subprocess.run([python_of(VENV), "-m", "pip", *arguments]).returncode


def link_for_types() -> None:
    """`.venv/typing/bq` -> the repository: a type checker does not follow an editable install's import hooks."""
    link = VENV / "typing" / "bq"
    link.parent.mkdir(exist_ok=True)
    if os.name == "nt" or (link.is_symlink() and link.resolve() == ROOT):
        return
    link.unlink(missing_ok=True)  # of a clone that was moved
    link.symlink_to(ROOT, target_is_directory=True)


def receipt(backend: str) -> dict[str, str]:
    """What the environment was made from; another one means: make it again."""
    project = (ROOT / "pyproject.toml").read_bytes()
    return {
        "backend": backend,
        "asked": asked_backend(),
        "rpc": "1" if wants_rpc() else "0",
        "project": hashlib.sha256(project).hexdigest(),
        "root": str(ROOT),
    }


def read_receipt() -> dict[str, str] | None:
    try:
        found: dict[str, str] = json.loads(RECEIPT.read_text())
    except (OSError, ValueError):
        return None
    return found


if __name__ == "__main__":
    sys.exit(main())
