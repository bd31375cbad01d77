"""What a score rests on: measures of heat, swaps of backgrounds, effects, verdicts."""
