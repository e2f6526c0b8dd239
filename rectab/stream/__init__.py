"""Streams: train on one period, be measured on the next before learning from it, for several tables at equal bytes."""
