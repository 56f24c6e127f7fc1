"""Hopper: TMA, wgmma, warp specialisation."""
