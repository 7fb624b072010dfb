"""A conversion from end to end: prepare (read headers, decide, plan), then write, check and name the file."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bq.convert.adapter.match import adapt, named
from bq.convert.adapter.read import Adapter
from bq.convert.checkpoint import open_checkpoint
from bq.convert.config import ModelConfig, read_config
from bq.convert.conversion import Conversion as Conversion  # where it is looked for
from bq.convert.file_hash import FileHash, checked_meanwhile
from bq.convert.header import write_header
from bq.convert.identity import folder_roles, identify
from bq.convert.importance import Importance
from bq.convert.mixture import Mixture, find_mixture
from bq.convert.model_config import BAICHUAN
from bq.convert.norm_head import BAICHUAN_1_VOCAB, NormHead, decide_norm_head
from bq.convert.output_file import check_files, steady, writing
from bq.convert.plan import make_plan
from bq.convert.quantizer import GGML, Quantizer
from bq.convert.read_back import ReadBack, read_back
from bq.convert.type_plan import TypePlan
from bq.convert.vocabulary import Vocabulary, read_vocabulary
from bq.convert.write import Progress, Target, write_tensors
from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say
from bq.runtime.unreadable import unreadable

DEMO_NAME = "bq-demo"
DEMO_SOURCE = "demo"


@dataclass(frozen=True)
class Output:
    """A file to write."""

    conversion: Conversion
    path: Path
    quantizer: Quantizer = GGML


@dataclass(frozen=True)
class Converted:
    """What a conversion made: `seconds` for the weights, then for the check."""

    path: Path
    size_bytes: int
    write_seconds: float
    check_seconds: float
    checked: ReadBack


def find_source(text: str) -> tuple[Path, str | None]:
    """The folder that the user means, and a name for it if it is the bundled checkpoint."""
    path = Path(text).expanduser()
    if text == DEMO_SOURCE and not (path / "config.json").exists():  # a clone has a folder of that name
        return demo_checkpoint(), DEMO_NAME
    if os.path.isfile(path):
        _refuse_gguf(path)
        path = path.parent
    return path, DEMO_NAME if os.path.realpath(path) == str(demo_checkpoint()) else None


def _refuse_gguf(path: Path) -> None:
    if path.suffix == ".gguf":
        raise UsageError(
            say(f"{path.name} is a GGUF file already.", f"{path.name} 已经是 GGUF 文件。"),
            say(
                "Give the checkpoint's folder; `bq repair` mends files that other programs made.",
                "请给出检查点文件夹；其他程序生成的文件可用 `bq repair` 修复。",
            ),
        )


def demo_checkpoint() -> Path:
    """The folder of the bundled checkpoint."""
    return Path(__file__).resolve().parent.parent / "demo" / "checkpoint"


def prepare(
    source: Path,
    mixture: str,
    variant: str | None = None,
    name: str | None = None,
    types: TypePlan | None = None,
    importance: Importance | None = None,
    adapters: Sequence[Adapter] = (),
) -> Conversion:
    """Read and decide everything; a plan of types takes the place of the mixture, `adapters` are merged. Raises BqError for
    whatever cannot be converted.
    """
    return prepare_several(source, [mixture], variant, name, types, importance, adapters)[0]


def prepare_several(
    source: Path,
    mixtures: Sequence[str],
    variant: str | None = None,
    name: str | None = None,
    types: TypePlan | None = None,
    importance: Importance | None = None,
    adapters: Sequence[Adapter] = (),
) -> list[Conversion]:
    """The same for several mixtures of one checkpoint, which is read once."""
    names = [types.base] if types else mixtures
    chosen = list(dict.fromkeys(find_mixture(mixture) for mixture in names))
    try:
        first = _prepare(source, chosen[0], variant, name, types, importance, adapters)
    except OSError as error:
        raise unreadable(error.filename or source, error) from None
    return [_refuse_useless(one) for one in (first, *(in_mixture(first, mixture) for mixture in chosen[1:]))]


def _refuse_useless(conversion: Conversion) -> Conversion:
    """Raises UsageError for a mixture of ours where it is llama.cpp's own."""
    mixture = conversion.mixture
    if not mixture.is_own or conversion.types:
        return conversion
    theirs = in_mixture(conversion, find_mixture(mixture.file_type.name))
    if [one.kind for one in theirs.plan.tensors] == [one.kind for one in conversion.plan.tensors]:
        raise UsageError(
            say(
                f"For {conversion.identity.name}, whose rows divide, {mixture.name} is the same as {theirs.mixture.name}.",
                f"{conversion.identity.name} 的行宽可以整除，{mixture.name} 与 {theirs.mixture.name} 相同。",
            ),
            say(f"Use -q {theirs.mixture.name}.", f"请用 -q {theirs.mixture.name}。"),
        )
    return conversion


def in_mixture(conversion: Conversion, mixture: Mixture) -> Conversion:
    """The same conversion to another mixture, with the same importance matrix."""
    return _planned(replace(conversion, mixture=mixture, types=None))


def in_types(conversion: Conversion, types: TypePlan) -> Conversion:
    """The same conversion by a plan of types, with the same importance matrix."""
    return _planned(replace(conversion, mixture=find_mixture(types.base), types=types))


def with_importance(conversion: Conversion, importance: Importance | None) -> Conversion:
    """The same conversion with another importance matrix, or none."""
    return _planned(replace(conversion, importance=importance))


def _planned(one: Conversion) -> Conversion:
    plan = make_plan(one.checkpoint, one.config, one.mixture, one.norm_head.fold, one.types, one.importance)
    return replace(one, plan=plan)


def _prepare(
    source: Path,
    chosen: Mixture,
    variant: str | None,
    name: str | None,
    types: TypePlan | None,
    importance: Importance | None,
    adapters: Sequence[Adapter],
) -> Conversion:
    checkpoint = adapt(open_checkpoint(source), adapters)
    config = read_config(checkpoint)
    tokenizer = checkpoint.adapted.tokenizer_folder or source
    vocabulary = read_vocabulary(tokenizer, config.vocab, folder_roles(source))
    plain = make_plan(checkpoint, config, chosen, False, types, importance)
    norm_head = decide_norm_head(checkpoint, config, vocabulary, plain.tensors[0].source)
    generation = _generation(config, vocabulary, norm_head)
    identity = named(identify(checkpoint, config, generation, variant, name), adapters)
    facts = (checkpoint, config, vocabulary, norm_head, generation, identity)
    return _planned(Conversion(*facts, chosen, plain, types, importance))


def _generation(config: ModelConfig, vocabulary: Vocabulary, norm_head: NormHead) -> int | None:
    if config.architecture != BAICHUAN:
        return None
    if norm_head.fold:
        return 2
    return vocabulary.role_generation() or (1 if config.vocab == BAICHUAN_1_VOCAB or vocabulary.add_dummy_prefix else 2)


def convert(
    conversion: Conversion,
    out: Path,
    threads: int,
    force: bool = False,
    report: Callable[[Progress], None] = lambda _: None,
    quantizer: Quantizer = GGML,
    hashes: Sequence[FileHash] = (),
) -> Converted:
    """Write, check and name the file. On any failure nothing is left and what existed stays. `hashes` are what the checkpoint's
    files have to hold, as far as that is known.

    Raises BqError, among others for a full disk or a file that has changed; KeyboardInterrupt passes through after the clean-up.
    """
    return convert_several([Output(conversion, out, quantizer)], threads, force, report, hashes)[0]


def check_outputs(conversions: Sequence[Conversion], paths: Sequence[Path], force: bool) -> None:
    """Raise UsageError or BqError if the files cannot be written there, as far as that can be known."""
    with _disk_errors(paths):
        check_files(paths, force, sum(conversion.size_bytes for conversion in conversions))


def convert_several(
    outputs: Sequence[Output],
    threads: int,
    force: bool = False,
    report: Callable[[Progress], None] = lambda _: None,
    hashes: Sequence[FileHash] = (),
) -> list[Converted]:
    """The same for several files from one read of their checkpoint: none gets its name before all are whole and checked."""
    if any(output.conversion.lacks_importance for output in outputs):
        raise ValueError("an importance matrix is still to be gathered")
    begun = time.perf_counter()
    paths = [output.path for output in outputs]
    check_outputs([output.conversion for output in outputs], paths, force)
    with _disk_errors(paths), ExitStack() as stack:
        parts = [stack.enter_context(writing(path, force)) for path in paths]
        refuse_if_changed = stack.enter_context(checked_meanwhile(hashes))
        _write(outputs, parts, threads, report)
        write_seconds = time.perf_counter() - begun
        done = [_read_back(*pair, threads, write_seconds) for pair in zip(outputs, parts, strict=True)]
        refuse_if_changed()
        check_files(paths, force)  # one may have appeared since the work began
    return done


@contextmanager
def _disk_errors(paths: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        names = ", ".join(path.name for path in paths)
        raise BqError(
            say(
                f"Writing {names} failed: {error.strerror or error}.", f"写入 {names} 失败：{error.strerror or error}。"
            ),
            say(
                "Nothing was left behind. Free some space, or give another -o.",
                "没有留下任何文件。请腾出空间，或用 -o 指定其他位置。",
            ),
        ) from None


def _read_back(output: Output, part: Path, threads: int, write_seconds: float) -> Converted:
    conversion, begun = output.conversion, time.perf_counter()
    checked = read_back(part, conversion.plan, conversion.vocabulary, conversion.identity.roles, threads)
    return Converted(output.path, part.stat().st_size, write_seconds, time.perf_counter() - begun, checked)


def _write(outputs: Sequence[Output], parts: Sequence[Path], threads: int, report: Callable[[Progress], None]) -> None:
    with ExitStack() as stack:
        targets = []
        for output, part in zip(outputs, parts, strict=True):
            header = write_header(output.conversion, part, output.quantizer)
            out = stack.enter_context(steady(stack.enter_context(header)))
            targets.append(Target(output.conversion.plan, out, output.quantizer))
        write_tensors(targets, threads, report)
