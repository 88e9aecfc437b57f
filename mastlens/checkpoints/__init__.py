"""Checkpoints and lineages: folders and hubs, shards, adapters, digests, inspection, export."""
