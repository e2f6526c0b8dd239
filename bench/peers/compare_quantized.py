"""Lookups from rows in few bits: rectab's int8 and int4 beside torch's quantised bags and FBGEMM's inference tables.

    .venv-peers/bin/python bench/peers/compare_quantized.py --cpu-time

4,096 x 26 Zipf ids a batch, every id a bag of one, D = 16, 1.42 million rows in one table, all in turns. Rows of torch
and FBGEMM have a scale and a bias each (rectab.ops.fused writes them, bit for bit), ours a scale. Ratios are to int8.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen
from rounds import Candidate, add_arguments, header, interleaved, report, write_json
from torch import Tensor

sys.path[:0] = [str(Path(__file__).parents[1])]

from workloads import Workload  # noqa: E402

from rectab.ops import RowStore  # noqa: E402
from rectab.ops.fused import fuse, fuse_bytes  # noqa: E402

NUM_ROWS, ROW_DIM = 1_420_000, 16
Lookup = Callable[[Tensor], object]


def rows_of(name: str, weight: Tensor) -> Lookup:
    store = RowStore(NUM_ROWS, ROW_DIM, rows=name)
    store.write(slice(None), weight)
    return store


def torch_bags(bits: int, weight: Tensor, offsets: Tensor) -> Lookup:
    packed = fuse_bytes(weight) if bits == 8 else fuse(weight, bits)
    name = "byte" if bits == 8 else f"{bits}bit"
    bags = getattr(torch.ops.quantized, f"embedding_bag_{name}_rowwise_offsets")
    return lambda ids: bags(packed, ids, offsets, mode=0)


def fbgemm_bags(bits: int, weight: Tensor, offsets: Tensor) -> Lookup:
    fused, kind = fuse(weight, bits), SparseType(f"int{bits}")
    tables = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("rows", NUM_ROWS, ROW_DIM, kind, EmbeddingLocation.HOST)],
        pooling_mode=PoolingMode.SUM,
        weight_lists=[(fused[:, :-4].contiguous(), fused[:, -4:].contiguous())],
        device="cpu",
        output_dtype=SparseType.FP32,
        row_alignment=1,
    )
    narrow = offsets.to(torch.int32)
    return lambda ids: tables(ids, narrow)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, rounds=60)
    arguments = parser.parse_args()
    clock = header(arguments)
    torch.set_num_threads(1)
    workload = Workload(NUM_ROWS, ROW_DIM)
    batches = [batch.flatten() for batch in workload.batches(16)]
    narrow = [batch.to(torch.int32) for batch in batches]
    weight = torch.randn(NUM_ROWS, ROW_DIM, generator=torch.Generator().manual_seed(0)) * 0.05
    offsets = torch.arange(len(batches[0]) + 1)
    candidates = [
        Candidate("rectab int8", "none", rows_of("int8", weight), batches),
        Candidate("rectab int4", "none", rows_of("int4", weight), batches),
        Candidate("torch byte bags", "none", torch_bags(8, weight, offsets[:-1]), batches),
        Candidate("torch 4bit bags", "none", torch_bags(4, weight, offsets[:-1]), batches),
        Candidate("FBGEMM int8", "none", fbgemm_bags(8, weight, offsets), narrow),
        Candidate("FBGEMM int4", "none", fbgemm_bags(4, weight, offsets), narrow),
        Candidate("rectab fp32", "none", rows_of("fp32", weight), batches),
    ]
    seconds = interleaved(candidates, arguments.rounds, clock)
    rows = report(f"lookup {NUM_ROWS:,} x {ROW_DIM}, few bits", candidates, seconds, rows=NUM_ROWS, dim=ROW_DIM)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
