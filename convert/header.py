"""What stands before the data section of a GGUF file: metadata and the directory of tensors."""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from bq.convert.conversion import Conversion
from bq.convert.metadata import add_metadata
from bq.convert.quantizer import GGML, Quantizer


def write_header(conversion: Conversion, part: Path, quantizer: Quantizer = GGML) -> BinaryIO:
    """The file with all that stands before its data section, open at that section's start."""
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(None, conversion.config.architecture)
    add_metadata(
        writer,
        conversion.config,
        conversion.vocabulary,
        conversion.identity,
        conversion.norm_head,
        conversion.generation,
        conversion.mixture,
        conversion.plan.weights,
        *quantizer.describe(conversion.plan),
        conversion.types.name if conversion.types else None,
        conversion.importance,
        conversion.checkpoint.adapted.labels,
    )
    for tensor in conversion.plan.tensors:
        kind = GGMLQuantizationType(tensor.kind)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.size_bytes, raw_dtype=kind)
    try:
        writer.write_header_to_file(part)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        out: BinaryIO = writer.fout[0]
        writer.write_padding(out, out.tell())
    except BaseException:
        for file in writer.fout or ():
            file.close()
        raise
    return out
