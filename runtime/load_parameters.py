"""A plan as llama.cpp's parameters: for loading a model, and for making a context of it."""

import ctypes
from typing import Any

from bq.runtime.devices import device_list, devices
from bq.runtime.experts import overrides
from bq.runtime.fit import Plan
from bq.runtime.ggml import GgmlType
from bq.runtime.llama import library, model_params
from bq.runtime.tokenizer import no_space_prefix

_KV = {"f16": GgmlType.F16, "q8_0": GgmlType.Q8_0}


def model_parameters(plan: Plan) -> tuple[Any, Any]:
    """llama_model_params for a plan, and what is to be held as long as llama.cpp loads by them, for they only point to it."""
    by_name = {device.name: device for device in devices()}
    used = device_list([by_name[name] for name in plan.devices])
    moved = overrides(plan.relieved)
    params = model_params()
    params.devices = ctypes.cast(used, ctypes.c_void_p)
    params.tensor_buft_overrides = ctypes.cast(moved, ctypes.c_void_p)
    params.n_gpu_layers = plan.setting.gpu_layers
    params.load_mode = _load_mode(plan)
    params.kv_overrides = no_space_prefix()
    return params, (used, moved)


def _load_mode(plan: Plan) -> int:
    lib = library()
    if plan.mlock:
        return int(lib.LLAMA_LOAD_MODE_MLOCK if plan.mmap is False else lib.LLAMA_LOAD_MODE_MMAP_MLOCK)
    if plan.mmap is None:
        return int(lib.LLAMA_LOAD_MODE_AUTO)
    return int(lib.LLAMA_LOAD_MODE_MMAP if plan.mmap else lib.LLAMA_LOAD_MODE_NONE)


def context_parameters(plan: Plan, on_node: Any) -> Any:
    """llama_context_params for a plan; `on_node` sees what is computed."""
    setting = plan.setting
    params = library().llama_context_default_params()
    params.n_ctx = setting.ctx
    params.n_ubatch = setting.batch
    # A draft is decoded in one call, however small the batches are.
    params.n_batch = max(setting.batch, setting.outputs)
    params.n_seq_max = setting.sequences
    params.kv_unified = True
    params.n_outputs_max = setting.outputs
    params.type_k = params.type_v = _KV[setting.kv]
    params.n_threads, params.n_threads_batch = plan.threads, plan.threads_batch
    if on_node is not None:
        params.cb_eval = on_node
    return params
