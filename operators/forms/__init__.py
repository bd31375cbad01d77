"""Parameters as the App shows them."""
