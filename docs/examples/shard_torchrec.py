"""A unified table inside torchrec, ready for its planner and DistributedModelParallel (start it with torchrun)."""

import torch
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology

from rectab.swap.torchrec import shardable

sizes = {"user": 1_000_000_000, "item": 100_000_000}
tables = [EmbeddingBagConfig(name=n, embedding_dim=128, num_embeddings=s, feature_names=[n]) for n, s in sizes.items()]
full = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
bags = shardable(full, "unified", "10%", device="meta", num_tables=8)  # 8 torchrec tables to spread over devices
print(bags.planned.config, f"{bags.planned.serving.bytes / 2**30:.1f} GiB")

planner = EmbeddingShardingPlanner(topology=Topology(world_size=8, compute_device="cuda"))
print(planner.plan(bags, [EmbeddingBagCollectionSharder()]))
# model.sparse_arch.embedding_bag_collection = bags, then DistributedModelParallel(model, plan=...)
