"""act demo: the main job in miniature, with models that it trains itself."""
