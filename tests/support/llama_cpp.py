"""llama.cpp itself, by its C functions: a model's logits with and without control vectors, which it reads and adds.

    python -m tests.support.llama_cpp MODEL.gguf "[1, 2, 3]" VECTOR.gguf…   prints a list of logits for each

The wheel of xllamacpp has no setter for control vectors, but its library exports the functions. Structs that are handed
over whole are taken as they come, so that nothing depends on their fields: a caller's larger copy does no harm.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from ctypes import (
    CDLL,
    CFUNCTYPE,
    POINTER,
    Structure,
    addressof,
    byref,
    c_byte,
    c_char_p,
    c_float,
    c_int32,
    c_size_t,
    c_void_p,
    sizeof,
)
from pathlib import Path
from typing import Any

from tests.support.real_servers import XLLAMACPP
from tools.smollm2 import UnavailableError, unpacked


class _Whole(Structure):
    _fields_ = (("content", c_byte * 1024),)


class _Vector(Structure):
    """`std::vector`."""

    _fields_ = (("begin", c_void_p), ("end", c_void_p), ("room", c_void_p))


class _File(Structure):
    """`common_control_vector_load_info`; its string is one pointer in the ABI of this wheel."""

    _fields_ = (("strength", c_float), ("name", c_char_p))


class _Data(Structure):
    """`common_control_vector_data`."""

    _fields_ = (("n_embd", c_int32), ("values", _Vector))


_LOG = CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
_READ = "_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"


class _Library:
    def __init__(self, path: Path) -> None:
        self._library = CDLL(str(path))

    def __call__(self, name: str, result: Any, *arguments: tuple[Any, Any]) -> Any:
        """Call a function with pairs of type and value."""
        function = getattr(self._library, name)
        function.restype, function.argtypes = result, [kind for kind, _ in arguments]
        return function(*[value for _, value in arguments])


def logits(model: Path, tokens: Sequence[int], vectors: Sequence[Path]) -> list[list[float]]:
    """Logits after the last token: of the model as it is, then with each control vector at strength 1.

    Raises:
        UnavailableError: the wheel cannot be fetched, or llama.cpp ended without an answer.
    """
    unpacked(*XLLAMACPP)
    command = [
        sys.executable,
        "-m",
        "tests.support.llama_cpp",
        str(model),
        json.dumps(list(tokens)),
        *map(str, vectors),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise UnavailableError(f"llama.cpp ended with {done.returncode}: {done.stderr[-600:]}")
    found: list[list[float]] = json.loads(done.stdout)
    return found


def _main(model_file: str, tokens: list[int], vectors: list[str]) -> list[list[float]]:
    call = _Library(next(unpacked(*XLLAMACPP).rglob("xllamacpp*.so")))
    quiet = _LOG(lambda *_: None)
    call("llama_log_set", None, (_LOG, quiet), (c_void_p, None))
    call("llama_backend_init", None)
    options = call("llama_model_default_params", _Whole)
    model = c_void_p(call("llama_model_load_from_file", c_void_p, (c_char_p, model_file.encode()), (_Whole, options)))
    vocabulary = c_void_p(call("llama_model_get_vocab", c_void_p, (c_void_p, model)))
    n_vocabulary = call("llama_vocab_n_tokens", c_int32, (c_void_p, vocabulary))
    found = []
    for vector in [None, *vectors]:
        context = call(
            "llama_init_from_model", c_void_p, (c_void_p, model), (_Whole, call("llama_context_default_params", _Whole))
        )
        if vector is not None:
            _apply(call, c_void_p(context), model, vector)
        read = (c_int32 * len(tokens))(*tokens)
        batch = call("llama_batch_get_one", _Whole, (POINTER(c_int32), read), (c_int32, len(tokens)))
        assert call("llama_decode", c_int32, (c_void_p, context), (_Whole, batch)) == 0
        last = call("llama_get_logits_ith", POINTER(c_float), (c_void_p, context), (c_int32, -1))
        found.append(last[:n_vocabulary])
        call("llama_free", None, (c_void_p, context))
    return found


def _apply(call: _Library, context: c_void_p, model: c_void_p, path: str) -> None:
    """As `llama-cli --control-vector FILE` does it: all layers from 1 on."""
    file, data = _File(1.0, path.encode()), _Data()
    end = addressof(file) + sizeof(file)
    listed = _Vector(addressof(file), end, end)
    call(_READ, None, (c_void_p, addressof(data)), (POINTER(_Vector), byref(listed)))
    n_embd = call("llama_model_n_embd", c_int32, (c_void_p, model))
    assert data.n_embd == n_embd, "llama.cpp cannot read it"
    ends = (c_int32, n_embd), (c_int32, 1), (c_int32, call("llama_model_n_layer", c_int32, (c_void_p, model)))
    length = (data.values.end - data.values.begin) // sizeof(c_float)
    added = (c_void_p, data.values.begin), (c_size_t, length)
    assert call("llama_set_adapter_cvec", c_int32, (c_void_p, context), *added, *ends) == 0


def float32_gguf(source: Path, target: Path) -> Path:
    """A GGUF file of a Llama with its weights in float32, so that nothing is rounded on the way."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    reader, writer = GGUFReader(source), GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            value = 0 if name == "general.file_type" else field.contents()
            writer.add_key_value(name, value, field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:])))
