"""rectab tables inside the models people already have."""

from rectab.swap.compressing import CompressResult, compress_
from rectab.swap.loading import load_compressed_
from rectab.swap.planning import SwapPlan, plan_swap
from rectab.swap.result import SwapResult
from rectab.swap.swapping import swap_

__all__ = ["CompressResult", "SwapPlan", "SwapResult", "compress_", "load_compressed_", "plan_swap", "swap_"]
