"""Connectors for the ad platforms: the same file names in each folder, one door to the network for all."""
