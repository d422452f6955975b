"""Compile a block and the loss for sm_90 on a machine without a GPU, down to machine code.

A script with its own process; it prints one JSON object. The model is traced on fake tensors of the
CPU; the graphs are then moved to a CUDA device that exists in name only (sm90_device.py), and
torch's compiler generates for it what it would generate on an H200. Triton's own ptxas compiles
each kernel and reports its registers. Nothing runs.

It needs triton, and a build of torch for CUDA.
"""

import copy
import json
import os
import re
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple
from unittest.mock import patch

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
os.environ["TORCHINDUCTOR_USE_STATIC_CUDA_LAUNCHER"] = "0"  # it keeps no PTX

import torch
import triton  # pyright: ignore[reportMissingImports]
from functorch.compile import make_boxed_func
from sm90_device import name_device
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor import graph as inductor_graph
from torch._inductor.codecache import PyCodeCache
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from training.config import SIZES, ModelConfig
from training.model import attention, determinism, loss, olmo
from training.model.attention import Mask, PackedDocuments

N_ROWS, LENGTH, VOCAB = 16, 2048, 50_304
CHUNK_ROWS = 4736  # loss.chunk_rows of them


class Generated(Exception):
    """Ends a compilation with the code that it generated."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code


def stop_after_code() -> None:
    """Let the compiler end where it has generated its code, before anything loads it."""

    def stop(graph: Any) -> Any:
        code = graph.codegen()[0]
        raise Generated(getattr(code, "value", code))

    for method in ("_compile_to_module", "compile_to_module"):
        setattr(inductor_graph.GraphLowering, method, stop)


def moved_to_cuda(graph: torch.fx.GraphModule, mode: FakeTensorMode) -> Any:
    """The graph and its inputs with fake tensors on CUDA instead of the CPU."""
    graph = copy.deepcopy(graph)

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            with mode:
                return torch.empty_strided(
                    value.shape, value.stride(), dtype=value.dtype, device="cuda"
                )
        return type(value)(map(moved, value)) if isinstance(value, tuple | list) else value

    inputs = []
    for node in graph.graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = moved(node.meta["val"])
        node.meta.pop("tensor_meta", None)
        if node.op == "placeholder":
            inputs.append(node.meta["val"])
        if "device" in node.kwargs:
            node.kwargs = node.kwargs | {"device": torch.device("cuda", 0)}
    graph.recompile()
    return graph, inputs


class Graph(NamedTuple):
    """The code of a graph, and the bytes of activations among its results."""

    code: str
    kept_bytes: int


def backend(graphs: dict[str, Graph], name: str) -> Any:
    """A compiler that stores the forward and the backward graph."""

    def compiler(key: str) -> Any:
        def compile_graph(graph: torch.fx.GraphModule, example_inputs: Any) -> Any:
            mode = next(x.fake_mode for x in example_inputs if isinstance(x, FakeTensor))
            on_cuda, inputs = moved_to_cuda(graph, mode)
            try:
                # while dynamo traces for the CPU, there is no device that it could ask
                with V.set_fake_mode(mode), patch.object(torch.cuda, "is_available", lambda: True):
                    compile_fx_inner(on_cuda, inputs, is_backward=key.endswith("backward"))
            except Exception as error:
                graphs[key] = Graph(generated_code(error), kept_bytes(graph))
            return make_boxed_func(graph.forward)

        return compile_graph

    return aot_autograd(
        fw_compiler=compiler(f"{name} forward"),
        bw_compiler=compiler(f"{name} backward"),
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table,
    )


def kept_bytes(graph: torch.fx.GraphModule) -> int:
    """Bytes of the results after the first, each storage once: what a forward pass keeps.

    Of the arguments only the first counts, the block's input; the others are weights.
    """
    results: Any = graph.graph.output_node().args[0]
    weights = [node for node in graph.graph.nodes if node.op == "placeholder"][1:]
    kept = [
        node.meta["val"].untyped_storage()
        for node in results[1:]
        if isinstance(node, torch.fx.Node) and node not in weights
    ]
    return sum({storage._cdata: storage.nbytes() for storage in kept}.values())


def generated_code(error: BaseException) -> str:
    """The code of the `Generated` that this error wraps; any other error is raised."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Generated):
            return cause.code
        cause = cause.__cause__ or cause.__context__ or getattr(cause, "inner_exception", None)
    raise error


def cudnn_attention(
    q_BTNH: Tensor, k_BTNH: Tensor, v_BTNH: Tensor, *, mask_BTS: None = None
) -> Tensor:
    """cuDNN's attention, which torch prefers on an H200."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTNH, k_BTNH, v_BTNH))
    operation = torch.ops.aten._scaled_dot_product_cudnn_attention
    return operation(q, k, v, None, True, 0.0, True, False)[0].transpose(1, 2)


def compile_blocks(graphs: dict[str, Graph], name: str, mask: Mask = None) -> dict[str, int]:
    """Compile two blocks of OLMo-1B; the number of graphs, and of breaks between them."""

    if mask is None:
        olmo.attend = cudnn_attention
    olmo.matmul_dtype = lambda x: x.dtype  # a CPU may want fp32
    config = ModelConfig(**SIZES["olmo-1b"]._asdict(), vocab_size=VOCAB)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x_BTD = torch.empty(N_ROWS, LENGTH, config.d_model, dtype=torch.bfloat16)
        n_positions = 1 if mask is None else N_ROWS  # tables of rotations
        cos, sin = (torch.empty(n_positions, LENGTH, 1, config.d_head) for _ in range(2))
        x_BTD.requires_grad_()
        torch.set_default_dtype(torch.bfloat16)
        blocks = [olmo.Block(config, layer) for layer in range(2)]
        torch.set_default_dtype(torch.float32)
        compiler = backend(graphs, name)
        for block in blocks:
            run = torch.compile(block.forward, dynamic=False, backend=compiler)
            x_BTD = run(x_BTD, (cos, sin), mask, None)
        x_BTD.backward(torch.empty_like(x_BTD))
    counters = torch._dynamo.utils.counters
    counts = {
        "n_graphs": counters["stats"]["unique_graphs"],
        "n_graph_breaks": sum(counters["graph_break"].values()),
    }
    counters.clear()
    return counts


def compile_loss(graphs: dict[str, Graph], name: str) -> None:
    """Compile a chunk of the loss, with z-loss and gradient."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        run = torch.compile(loss._process_chunk, dynamic=False, backend=backend(graphs, name))
        logits_CV = torch.empty(CHUNK_ROWS, VOCAB, dtype=torch.bfloat16)
        targets_C = torch.zeros(CHUNK_ROWS, dtype=torch.int64)
        run(logits_CV, targets_C, torch.ones(CHUNK_ROWS), 1e-4, True)


def kernels(code: str) -> dict[str, list[dict[str, int]]]:
    """The Triton kernels of generated code, and what ptxas says of each of their configurations.

    A GPU would time these configurations and keep the fastest.
    """
    pattern = r"async_compile\.triton\('(\w+)', '''(.*?)'''"
    found = {}
    for name, source in re.findall(pattern, code, re.DOTALL):
        kernel = getattr(PyCodeCache.load(source), name)
        found[name] = [
            ptxas_report(kernel._precompile_config(config).kernel) for config in kernel.configs
        ]
    return found


def ptxas_report(kernel: Any) -> dict[str, int]:
    """Registers of a thread and bytes spilled by it, by the ptxas that ships with Triton."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(kernel.asm["ptx"])
        file.flush()
        command = [triton.knobs.nvidia.ptxas.path, "-v", "--gpu-name=sm_90a", file.name]
        result = subprocess.run(
            [*command, "-o", os.devnull], capture_output=True, text=True, check=True
        )
    patterns = (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes spill loads")
    registers, stores, loads = (
        int(number) for pattern in patterns for number in re.findall(pattern, result.stderr)
    )
    return {
        "registers": registers,
        "spilled_bytes": stores + loads,
        "n_warps": kernel.metadata.num_warps,
    }


def calls(code: str) -> list[str]:
    """What the code calls, in order: Triton kernels, matrix products, attention."""
    pattern = r"^\s+(triton_\w+)\.run\(|^\s+(extern_kernels\.\w+)\(|^\s+\w+ = (torch\.ops\.\S+?)\("
    return ["".join(match) for match in re.findall(pattern, code, re.MULTILINE)]


def main() -> None:
    graphs: dict[str, Graph] = {}
    name_device()
    stop_after_code()
    torch.compiler.assume_constant_result(attention.kernel_name)
    documents = PackedDocuments(torch.zeros(65, dtype=torch.int32), N_ROWS, LENGTH)
    counts = {
        "documents": compile_blocks(graphs, "documents", documents),
        "block": compile_blocks(graphs, "block"),
    }
    compile_loss(graphs, "loss")
    determinism.configure("cuda", deterministic=True)
    compile_loss(graphs, "deterministic loss")
    report = {
        name: {
            "calls": calls(graph.code),
            "kernels": kernels(graph.code),
            "kept_bytes": graph.kept_bytes,
        }
        for name, graph in graphs.items()
    }
    json.dump({"graphs": report, "counts": counts}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
