"""The panel beside an open sample: its maps, what its score rests on, what if a part were different."""
