"""A set of ids in few bytes that tells, for any id, whether it is a member and how many members come before it.

It is what a pruned table needs instead of a remap of 4 bytes an id: the row of a kept id is its rank. An int32 remap is
1/16 of a 16-wide fp32 table; these forms are at most 1/455. Which one is smallest depends on the share of members:

* ``bitmap``: one bit an id and, for every 256 ids, the rank at their start: 1.125 bits an id;
* ``bytes``: the lower 8 bits of every member and, for every 256 ids, the rank at their start: 8 bits a member and 0.125
  bits an id, smaller than the bitmap below 1/8 of members;
* ``shorts``: the lower 16 bits of every member, with a rank every 65536 ids: smaller below 1/64;
* ``all``, ``none``: every id or no id is a member; nothing is stored.

Ints packed to ``log2(members)`` bits an id are never smaller than the bitmap, so there is no such form.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from rectab.ops.dispatch import is_eager, kernel_name
from rectab.ops.hashing import wrapped_product
from rectab.tables.idset_numba import (
    gather_in_bitmap,
    gather_in_list,
    list_in_bitmap,
    list_in_list,
    ranges_in_list,
    rank_in_bitmap,
    rank_in_list,
)

__all__ = ["IdSet"]

Form = Literal["all", "none", "bitmap", "bytes", "shorts"]

_WORDS = 4  # 64-bit words between two stored ranks of a bitmap
_BLOCK_BITS = 8  # log2 of the ids between two stored ranks of a bitmap
_LOW_BITS: dict[Form, int] = {"bytes": 8, "shorts": 16}


class IdSet(nn.Module):
    """``num_members`` of the ids ``0 .. num_ids - 1``.

    Which form it takes follows from the two numbers alone, so its bytes are known before its members are.

    Args:
        num_ids: ids there are.
        num_members: how many of them are members.
        span: the longest range that :meth:`between` will be asked for; 1 if it will not be.
        device: where the tensors are allocated, unfilled: see :meth:`fill` and ``load_state_dict``.
    """

    words: Tensor
    lows: Tensor
    ranks: Tensor

    def __init__(
        self, num_ids: int, num_members: int, *, span: int = 1, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        if not 0 <= num_members <= num_ids:
            raise ValueError(f"an id set holds 0..{num_ids} members, got {num_members}")
        if num_members > 2**31 - 1:
            raise ValueError(f"an id set holds at most {2**31 - 1} members, got {num_members}")
        self.num_ids, self.num_members = num_ids, num_members
        self.form = self.form_of(num_ids, num_members, span)
        if self.form == "bitmap":
            blocks = -(-num_ids // (1 << _BLOCK_BITS))
            self.register_buffer("words", torch.zeros(blocks, _WORDS, dtype=torch.int64, device=device))
            self.register_buffer("ranks", torch.zeros(blocks, dtype=torch.int32, device=device))
        elif self.form in _LOW_BITS:
            buckets = -(-num_ids // (1 << _LOW_BITS[self.form]))
            dtype = torch.uint8 if self.form == "bytes" else torch.int16
            self.register_buffer("lows", torch.zeros(num_members, dtype=dtype, device=device))
            self.register_buffer("ranks", torch.zeros(buckets + 1, dtype=torch.int32, device=device))

    @staticmethod
    def bytes_of(num_ids: int, num_members: int, span: int = 1) -> int:
        """Bytes of the set's tensors."""
        return _bytes_of_form(num_ids, num_members)[IdSet.form_of(num_ids, num_members, span)]

    @staticmethod
    def form_of(num_ids: int, num_members: int, span: int = 1) -> Form:
        """The smallest form that can hold the set."""
        if num_members == num_ids:
            return "all"
        if num_members == 0:
            return "none"
        sizes = _bytes_of_form(num_ids, num_members)
        forms: list[Form] = ["bitmap", *(form for form, bits in _LOW_BITS.items() if span <= 1 << bits)]
        return min(forms, key=lambda form: sizes[form])

    @torch.no_grad()
    def fill(self, members: Tensor) -> IdSet:
        """Set the members: int64 [num_members], ascending. Returns self."""
        if members.shape != (self.num_members,):
            raise ValueError(f"expected {self.num_members} members, got {tuple(members.shape)}")
        if self.form == "bitmap":
            bits = torch.zeros(self.words.numel() * 64, dtype=torch.bool, device=members.device)
            bits[members] = True
            self.ranks.copy_(_exclusive_cumsum(bits.view(-1, 1 << _BLOCK_BITS).sum(1))[:-1])
            weights = torch.ones((), dtype=torch.int64, device=members.device) << torch.arange(
                64, device=members.device
            )
            for first in range(0, bits.numel(), 1 << 24):  # bounds the int64 copy of the bits
                part = bits[first : first + (1 << 24)].view(-1, _WORDS, 64)
                words = (part.to(torch.int64) * weights).sum(-1)
                self.words[first >> _BLOCK_BITS : (first >> _BLOCK_BITS) + words.shape[0]] = words
        elif self.form in _LOW_BITS:
            low_bits = _LOW_BITS[self.form]
            self.lows.copy_((members & ((1 << low_bits) - 1)).to(self.lows.dtype))
            counts = torch.bincount(members >> low_bits, minlength=self.ranks.numel() - 1)
            self.ranks.copy_(_exclusive_cumsum(counts))
        return self

    def check_contents(self) -> None:
        """Refuse tensors of a file that no set of this size has: ranks would point behind its members.

        Raises:
            ValueError: ranks fall, or do not start at 0 or end at the number of members.
        """
        if self.form in ("all", "none"):
            return
        ranks = self.ranks.to(torch.int64)
        if self.form == "bitmap":
            members = sum(int(_popcount(part).sum()) for part in self.words.split(1 << 16))
            ranks = torch.cat([ranks, ranks.new_tensor([members])])
        if int(ranks[0]) != 0 or int(ranks[-1]) != self.num_members or bool((ranks[1:] < ranks[:-1]).any()):
            raise ValueError(f"an id set of {self.num_members} of {self.num_ids} ids does not count its members right")

    def rank(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(how many members are below each id, whether it is one): int64 [*] -> int64 [*], bool [*]."""
        if self.form == "all":
            return ids, torch.ones_like(ids, dtype=torch.bool)
        if self.form == "none":
            return torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        if _has_numba(ids):
            return self._rank_by_numba(ids)
        if self.form == "bitmap":
            return self._rank_in_bitmap(ids)
        positions, ends = self._search(ids)
        lows = self._low(positions.clamp(max=self.num_members - 1))
        return positions, (positions < ends) & (lows == ids & ((1 << _LOW_BITS[self.form]) - 1))

    def between(self, ids: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """The members among ``id .. id + length - 1``, of which there are at most ``length``.

        Args:
            ids: int64 [*]; ``id + length`` must not exceed ``num_ids``.
            length: at most the ``span`` the set was made for.

        Returns:
            rank int64 [*, length], offset from the id int64 [*, length], and bool [*, length]: which of the ``length``
            slots hold a member. Empty slots have any rank in range.
        """
        slots = torch.arange(length, device=ids.device)
        if self.form in ("all", "none", "bitmap"):
            wanted = ids.unsqueeze(-1) + slots
            rank, member = self.rank(ids)
            if self.form == "bitmap":
                member = _bit(self.words.view(-1)[wanted >> 6], wanted & 63)
                before = member.cumsum(-1) - member.to(torch.int64)
                return (rank.unsqueeze(-1) + before).clamp(max=self.num_members - 1), slots.expand_as(wanted), member
            return wanted, slots.expand_as(wanted), member.unsqueeze(-1).expand_as(wanted)
        first, _ = self.rank(ids)
        last = self.rank(ids + (length - 1))
        end = last[0] + last[1].to(torch.int64)
        rank = first.unsqueeze(-1) + slots
        filled = rank < end.unsqueeze(-1)
        rank = rank.clamp(max=self.num_members - 1)
        # A range is no longer than a bucket, so the lower bits tell the offset also where it runs into the next one.
        offset = (self._low(rank) - ids.unsqueeze(-1)) & ((1 << _LOW_BITS[self.form]) - 1)
        return rank, offset.where(filled, 0), filled

    def list_between(self, ids: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The members that :meth:`between` finds, without its empty slots: for eager code.

        Args:
            ids, length: as for :meth:`between`; ids int64 [n].

        Returns:
            Place ``i * length + offset`` and rank of every member, int64 [m] each, in the order of the places.
        """
        if _has_numba(ids) and self.form in ("bitmap", *_LOW_BITS):
            return self._list_by_numba(ids, length)
        rank, offset, member = self.between(ids, length)
        place = torch.arange(len(ids), device=ids.device).unsqueeze(-1) * length + offset
        return place[member], rank[member]

    def gather(self, ids: Tensor, length: int, values: Tensor) -> Tensor | None:
        """fp32 [n, length]: ``values`` [num_members] of the members that :meth:`between` finds for ids int64 [n], in
        their places, and zeros elsewhere; without a gradient. None where no kernel runs."""
        if not _has_numba(ids) or self.form not in ("bitmap", *_LOW_BITS):
            return None
        out, given = torch.empty(len(ids), length), values.detach().contiguous().numpy()
        flat = ids.contiguous().numpy()
        if self.form == "bitmap":
            start = self.rank(ids)[0].numpy()
            gather_in_bitmap(self._unsigned_words(), flat, length, start, given, out.numpy())
        else:
            lows, low_bits = self._unsigned_lows(), _LOW_BITS[self.form]
            gather_in_list(lows, self.ranks.numpy(), low_bits, flat, length, given, out.numpy())
        return out

    def _rank_by_numba(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        flat = ids.reshape(-1).contiguous().numpy()
        rank, member = np.empty(flat.size, np.int64), np.empty(flat.size, np.bool_)
        if self.form == "bitmap":
            rank_in_bitmap(self._unsigned_words(), self.ranks.numpy(), flat, rank, member)
        else:
            rank_in_list(self._unsigned_lows(), self.ranks.numpy(), _LOW_BITS[self.form], flat, rank, member)
        return torch.from_numpy(rank).view(ids.shape), torch.from_numpy(member).view(ids.shape)

    def _list_by_numba(self, ids: Tensor, length: int) -> tuple[Tensor, Tensor]:
        flat, start = ids.contiguous().numpy(), self.rank(ids)[0].numpy()
        if self.form == "bitmap":
            rank, member = self.rank(ids + (length - 1))
            count = int((rank + member).sum()) - int(start.sum())
            place, found = np.empty(count + 1, np.int64), np.empty(count + 1, np.int64)
            list_in_bitmap(self._unsigned_words(), flat, length, start, place, found)
        else:
            lows, low_bits, end = self._unsigned_lows(), _LOW_BITS[self.form], np.empty_like(start)
            ranges_in_list(lows, self.ranks.numpy(), low_bits, flat, length, start, end)
            count = int(end.sum() - start.sum())
            place, found = np.empty(count, np.int64), np.empty(count, np.int64)
            list_in_list(lows, low_bits, flat, length, start, end, place, found)
        return torch.from_numpy(place[:count]), torch.from_numpy(found[:count])

    def _unsigned_words(self) -> np.ndarray:
        return self.words.view(-1).numpy().view(np.uint64)

    def _unsigned_lows(self) -> np.ndarray:
        return self.lows.numpy().view(np.uint8 if self.form == "bytes" else np.uint16)

    def _low(self, positions: Tensor) -> Tensor:
        return self.lows[positions].to(torch.int64) & ((1 << _LOW_BITS[self.form]) - 1)

    def _search(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Binary search in each id's bucket: (first position whose member is not below the id, end of the bucket)."""
        low_bits = _LOW_BITS[self.form]
        bucket, low = ids >> low_bits, ids & ((1 << low_bits) - 1)
        start, stop = self.ranks[bucket].to(torch.int64), self.ranks[bucket + 1].to(torch.int64)
        end = stop
        for _ in range(min(1 << low_bits, self.num_members).bit_length()):
            middle = (start + stop) >> 1
            below = (start < stop) & (self._low(middle.clamp(max=self.num_members - 1)) < low)
            start, stop = torch.where(below, middle + 1, start), torch.where(below, stop, middle)
        return start, end

    def _rank_in_bitmap(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        block = ids >> _BLOCK_BITS
        words = self.words[block]
        in_block = (ids & ((1 << _BLOCK_BITS) - 1)).unsqueeze(-1)
        below = (in_block - torch.arange(_WORDS, device=ids.device) * 64).clamp(0, 64)
        one = torch.ones_like(below)
        mask = torch.where(below == 64, -one, torch.bitwise_left_shift(one, below.clamp(max=63)) - 1)
        rank = self.ranks[block].to(torch.int64) + _popcount(words & mask).sum(-1)
        word = self.words.view(-1)[ids >> 6]
        return rank, _bit(word, ids & 63)

    def extra_repr(self) -> str:
        return f"{self.num_members} of {self.num_ids}, form={self.form!r}"


def _bytes_of_form(num_ids: int, num_members: int) -> dict[Form, int]:
    blocks = -(-num_ids // (1 << _BLOCK_BITS))
    sizes: dict[Form, int] = {"all": 0, "none": 0, "bitmap": blocks * (8 * _WORDS + 4)}
    for form, low_bits in _LOW_BITS.items():
        sizes[form] = num_members * low_bits // 8 + 4 * (-(-num_ids // (1 << low_bits)) + 1)
    return sizes


def _has_numba(ids: Tensor) -> bool:
    """Whether the kernels of :mod:`rectab.tables.idset_numba` are what runs on these ids."""
    return is_eager(ids) and kernel_name(ids.device) == "numba"


def _exclusive_cumsum(counts: Tensor) -> Tensor:
    """[n] -> [n + 1], starting at 0."""
    return torch.cat([counts.new_zeros(1), counts]).cumsum(0)


def _bit(word: Tensor, position: Tensor) -> Tensor:
    """Whether the bit is set. By the function and not ``>>``, whose form for two tensors has no ONNX conversion."""
    return torch.bitwise_right_shift(word, position) & 1 != 0


def _popcount(x: Tensor) -> Tensor:
    """Set bits of every int64; the shifts are arithmetic, and the masks take the sign bits off."""
    x = x - ((x >> 1) & 0x5555555555555555)
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (wrapped_product(x, 0x0101010101010101) >> 56) & 0xFF
