"""Runs at the regional hub: believes nobody, records what it decides, signs what it promises."""
