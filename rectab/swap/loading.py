"""``load_compressed_``: a compressed checkpoint into a model that holds its own tables, in any process."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from rectab.swap.compressing import CompressResult, put_tables
from rectab.swap.encoding import build_ranked
from rectab.swap.find import FoundTable, find_tables
from rectab.tables.quantized import RankedTable
from rectab.tables.quantized.codes import encoding_of_code

__all__ = ["load_compressed_"]

_MARK = ".table.packed.codes"


def load_compressed_(model: nn.Module, state_dict: Mapping[str, Tensor], *, verbose: bool = True) -> CompressResult:
    """Put packed tables in the places of a model's own and load the checkpoint that :func:`rectab.compress_` left.

    Args:
        model: of the class that was compressed, with any weights, also on the meta device: parameters there are taken
            from the checkpoint, and the full tables are never allocated.
        state_dict: of the compressed model, from ``torch.load`` or ``safetensors.torch.load_file``. It says itself
            which tables are packed, and how.
        verbose: print what was done.

    Returns:
        What can undo it: the model's own tables are then back, with the weights they had.

    Raises:
        ValueError: the checkpoint has no packed table, or one that the model has no place for or that is damaged.
        RuntimeError: from ``load_state_dict``: other keys are missing, unexpected or of another shape.
    """
    packed = {key.removesuffix(_MARK) for key in state_dict if key.endswith(_MARK)}
    if not packed:
        raise ValueError("the checkpoint has no packed table; load it with model.load_state_dict")
    found, _ = find_tables(model, lambda name, _: name in packed, frozen=True)
    missing = packed - {name for table in found for name in table.names}
    if missing:
        raise ValueError(f"the checkpoint has packed tables {sorted(missing)}, but the model has none of these names")
    on_meta = any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    tables = [_empty(table, state_dict) for table in found]
    result = put_tables(model, found, tables)
    try:
        _check_buffers(model)
        model.load_state_dict(state_dict, assign=on_meta)
    except BaseException:
        result.undo()  # nobody else could
        raise
    if verbose:
        print(result)
    return result


def _check_buffers(model: nn.Module) -> None:
    """Raise ValueError for tensors on the meta device that no checkpoint has: they would be read as they are."""
    saved = model.state_dict().keys()
    empty = [name for name, buffer in model.named_buffers() if buffer.is_meta and name not in saved]
    if empty:
        raise ValueError(
            f"the model's buffers {empty} are on the meta device and are not part of checkpoints; build the model on "
            "the CPU, or give them their values first"
        )


def _empty(found: FoundTable, state_dict: Mapping[str, Tensor]) -> RankedTable:
    """The table whose state the checkpoint has, without its values. Raises ValueError for another module's state."""
    name = next(name for name in found.names if name + _MARK in state_dict)
    try:
        codes, blocks = (state_dict[f"{name}.table.packed.{part}"] for part in ("codes", "blocks"))
        encodings = tuple(encoding_of_code(code, found.module.embedding_dim).name for code in codes.tolist())
        firsts = tuple(first for first, _ in blocks.tolist())
        in_order = f"{name}.table.partition.outer.planes" not in state_dict
        return build_ranked(found, firsts, encodings, in_order, found.weight.device)
    except (KeyError, ValueError, TypeError) as error:
        size = f"{found.module.num_embeddings} x {found.module.embedding_dim}"
        raise ValueError(f"the checkpoint's packed table {name!r} does not fit one of {size}: {error}") from error
