"""`bq worker`: lend this machine's memory and cores to a model that runs on another one (`--rpc` there)."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bq.runtime.language import say

if TYPE_CHECKING:
    from bq.runtime.devices import Device

_PORT = 50052


@click.command(
    help=say(
        "Lend this machine to bq on another one, which names it with --rpc. There is no password: use it only in a network "
        "of your own.",
        "把本机借给另一台机器上的 bq 使用（对方用 --rpc 指定）。没有密码保护：只应在自己的网络中使用。",
    )
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help=say("The address to listen at; 0.0.0.0 is all.", "监听地址；0.0.0.0 表示全部。"),
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=_PORT, show_default=True, help=say("The port.", "端口。")
)
@click.option(
    "--device",
    metavar="NAMES",
    help=say(
        "Devices to lend, e.g. CUDA0, or cpu. [default: all GPUs, else cpu]",
        "借出的设备，如 CUDA0 或 cpu。[默认：全部 GPU，否则 cpu]",
    ),
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), help=say("Threads. [default: by cores]", "线程数。[默认：按核心数]")
)
@click.option(
    "--cache",
    is_flag=True,
    help=say(
        "Keep large tensors on the disk, so that a model is sent only once.",
        "把大张量保存在磁盘上，同一模型只需传送一次。",
    ),
)
def command(host: str, port: int, device: str | None, threads: int | None, cache: bool) -> None:
    """Serve until interrupted."""
    from bq.runtime.cpu import usable_cores
    from bq.runtime.rpc import refuse_without_rpc, serve

    refuse_without_rpc()
    lent = _lent(device)
    _tell(host, port, lent)
    os.dup2(sys.stderr.fileno(), 1)  # llama.cpp prints who comes and goes; stdout is for results
    serve(host, port, lent, threads or usable_cores(), _cache_folder() if cache else None)


def _lent(wanted: str | None) -> "tuple[Device, ...]":
    """The GPUs that are wanted, or the processor where there are none."""
    from bq.runtime.devices import choose_devices, devices

    found = devices()
    return choose_devices(found, wanted) or tuple(one for one in found if one.kind == "cpu")[:1]


def _tell(host: str, port: int, lent: "tuple[Device, ...]") -> None:
    names = ", ".join(one.name for one in lent)
    click.echo(
        say(
            f"Lending {names} at {host}:{port}. On the other machine: bq chat --rpc ADDRESS:{port}. Ctrl+C ends it.",
            f"正在 {host}:{port} 借出 {names}。在另一台机器上：bq chat --rpc 地址:{port}。按 Ctrl+C 结束。",
        ),
        err=True,
    )
    if not host.startswith("127.") and host != "localhost":
        click.echo(
            say(
                "Warning: whoever reaches this port can use this machine, without a password.",
                "警告：任何能访问此端口的人都可以使用本机，没有密码保护。",
            ),
            err=True,
        )


def _cache_folder() -> Path:
    from bq.tui.chosen_model import home

    folder = home() / "rpc-cache"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
