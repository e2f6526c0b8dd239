"""One level of a partition: in which of a few classes an id is, and its rank there, bit-packed.

The classes' numbers lie in planes of bits, 64 ids a word, so that the ids of one class in a range are counted by a few
operations on whole words; counts of every class, at the start of each group of ids, say how many came before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rectab.ops import numba_ranks
from rectab.ops.dispatch import is_eager, kernel_name
from rectab.ops.numba_support import flat_rows, launch_lookup, thread_count

__all__ = ["Level", "level_bytes"]

_GROUPS = (64, 128, 256, 512)  # ids between two counts, of 16 bits
_SUM = 1 << 16  # ids between two sums, of 32 bits
_AT_A_TIME = 1 << 14  # ids whose groups are copied by the reference
_CHUNK = 1 << 20  # ids that are unpacked at once when a state is checked


def _bits(num_classes: int) -> int:
    return (num_classes - 1).bit_length()


def _bytes(num_ids: int, num_classes: int, group: int) -> int:
    groups = -(-num_ids // group)
    return groups * (_bits(num_classes) * group // 8 + 2 * num_classes) + -(-num_ids // _SUM) * 4 * num_classes


def _group(num_ids: int, num_classes: int) -> int:
    """Ids of a group: whatever takes fewest bytes."""
    return min(_GROUPS, key=lambda group: _bytes(num_ids, num_classes, group))


def level_bytes(num_ids: int, num_classes: int) -> int:
    """Bytes of a :class:`Level`."""
    return _bytes(num_ids, num_classes, _group(num_ids, num_classes))


class Level(nn.Module):
    """Maps ids to positions: the classes one after another, ids in rising order within each.

    Memory: about the bits of a class's number and, for 8 classes, a quarter of a bit an id.

    Args:
        sizes: ids of each class, at least two.
        device: where it is built.
    """

    planes: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, sizes: Sequence[int], device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.sizes, num_ids, num_classes = tuple(sizes), sum(sizes), len(sizes)
        self.num_ids, self.group = num_ids, _group(num_ids, num_classes)
        groups, bits = -(-num_ids // self.group), _bits(num_classes)
        shapes = {
            "planes": ((groups, self.group // 64, bits, 8), torch.uint8),
            "counts": ((groups, num_classes), torch.int16),
            "sums": ((-(-num_ids // _SUM), num_classes), torch.int32),
        }
        for name, (shape, dtype) in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=device))

    @torch.no_grad()
    def fill(self, class_of: np.ndarray) -> None:
        """Hold these classes: int [num_ids], of every id. Raises ValueError where they have other sizes."""
        if class_of.shape != (self.num_ids,):
            raise ValueError(f"classes of shape {class_of.shape} for {self.num_ids} ids")
        words = np.pad(class_of, (0, -self.num_ids % self.group)).reshape(len(self.planes), -1, 64)
        planes = [np.packbits(words >> bit & 1, axis=2, bitorder="little") for bit in range(self.planes.shape[2])]
        self.planes.copy_(torch.from_numpy(np.stack(planes, 2)))
        counts, sums = self._index(self._held(self.planes.cpu().numpy()))
        self.counts.copy_(torch.from_numpy(counts))
        self.sums.copy_(torch.from_numpy(sums))

    def _held(self, planes: np.ndarray) -> np.ndarray:
        """int64 [groups, classes]: ids of every class in every group. Raises ValueError where sizes differ."""
        count = len(self.sizes)
        held = np.zeros((len(planes), count), np.int64)
        step = _CHUNK // self.group
        for first in range(0, len(planes), step):
            some = np.unpackbits(planes[first : first + step], axis=3, bitorder="little")
            classes = reduce(np.bitwise_or, (some[:, :, p].astype(np.int64) << p for p in range(some.shape[2])))
            classes = classes.ravel()[: self.num_ids - first * self.group]
            if (classes >= count).any():
                raise ValueError(f"class {int(classes.max())} of {count}")
            keys = np.arange(len(classes)) // self.group * count + classes
            held[first : first + step] = np.bincount(keys, minlength=len(some) * count).reshape(-1, count)
        if tuple(held.sum(0).tolist()) != self.sizes:
            raise ValueError(f"classes of {held.sum(0).tolist()} ids, not {list(self.sizes)}")
        return held

    def _index(self, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(counts, sums) that belong to the ids of classes in groups."""
        sizes = held.sum(0)
        starts = held.cumsum(0) - held + (sizes.cumsum() - sizes)
        per_sum = _SUM // self.group
        sums = starts[::per_sum]
        counts = starts - np.repeat(sums, per_sum, 0)[: len(starts)]
        return counts.astype(np.uint16).view(np.int16), sums.astype(np.int32)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Refuse a state whose parts do not belong together: ids would read each other's vectors."""
        given = [state_dict.get(prefix + name) for name in ("planes", "counts", "sums")]
        shapes = [(tensor.shape, tensor.dtype) for tensor in (self.planes, self.counts, self.sums)]
        fits = [t is not None and (t.shape, t.dtype) == shape for t, shape in zip(given, shapes, strict=True)]
        if all(fits) and not any(t.is_meta for t in given):
            planes, counts, sums = (tensor.detach().cpu().numpy() for tensor in given)
            try:
                expected = self._index(self._held(planes))
            except ValueError as error:
                rest[-1].append(f"quantized: {prefix}planes hold {error}")
                return
            if not (np.array_equal(counts, expected[0]) and np.array_equal(sums, expected[1])):
                rest[-1].append(f"quantized: {prefix}counts and {prefix}sums are not those of its planes")
                return
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [m] ids, each in ``0 .. num_ids - 1`` -> int64 [m] positions."""
        if not is_eager(ids):
            return self._positions(ids)
        if kernel_name(self.planes.device) == "numba":
            return self._positions_by_numba(ids)
        parts = [self._positions(part) for part in ids.split(_AT_A_TIME)]
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def _positions_by_numba(self, ids: Tensor) -> Tensor:
        out = torch.empty_like(ids)
        launch_lookup(
            numba_ranks.positions,
            thread_count(16 * ids.numel()),
            flat_rows(ids),
            self.planes.numpy().view(np.uint64).squeeze(3),
            self.counts.numpy(),
            self.sums.numpy(),
            self.group.bit_length() - 1,
            _SUM.bit_length() - 1,
            out.numpy(),
        )
        return out

    def _positions(self, ids: Tensor) -> Tensor:
        group, place = ids // self.group, ids % self.group
        planes = self.planes[group].to(torch.int32).transpose(1, 2).flatten(2)
        at = (place >> 3).view(-1, 1, 1).expand(-1, planes.shape[1], 1)
        # Shifts by tensors are written as functions: ONNX knows them by these names.
        own = torch.bitwise_right_shift(planes.gather(2, at).squeeze(2), (place & 7).to(torch.int32).unsqueeze(1)) & 1
        found = (own * (1 << torch.arange(own.shape[1], device=ids.device))).sum(1)
        before = torch.arange(0, self.group, 8, device=ids.device)
        ones = (place.unsqueeze(1) - before).clamp(0, 8).to(torch.int32)
        same = torch.bitwise_left_shift(torch.ones_like(ones), ones) - 1
        for plane in range(planes.shape[1]):
            same = same & (planes[:, plane] ^ (own[:, plane : plane + 1] - 1))
        counted = self.counts[group, found].to(torch.int64) & 0xFFFF
        return _ones(same).sum(1) + counted + self.sums[ids // _SUM, found].to(torch.int64)


def _ones(bits: Tensor) -> Tensor:
    """How many bits of each number below 256 are 1."""
    bits = bits - (bits >> 1 & 0x55)
    bits = (bits & 0x33) + (bits >> 2 & 0x33)
    return (bits + (bits >> 4)) & 0x0F
