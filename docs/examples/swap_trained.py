"""Compress a trained model: start from its weights, look at the error, take a checkpoint back to the full model."""

import torch
from torch import nn

import rectab

model = nn.ModuleDict({"user": nn.Embedding(5000, 16, padding_idx=0), "item": nn.Embedding(2000, 16, padding_idx=0)})
checkpoint = {key: tensor.clone() for key, tensor in model.state_dict().items()}
clicks = {"item": torch.arange(2000, 0, -1)}  # how often each id occurs: hot ids weigh more

result = rectab.swap_(model, "hashed", "50%", init="trained", counts=clicks)
print({name: round(error, 3) for name, error in result.reconstruction.items()})

result.load_host(checkpoint)  # a checkpoint of the full model, into the swapped one
full = result.to_host()  # and back: every table written out in full
print({key: tuple(tensor.shape) for key, tensor in full.items()})
result.undo()
