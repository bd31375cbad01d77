"""The demo: 24 free photos, a real network, and what the plugin makes of them."""
