"""The tests of what scores rest on: background, region, cue."""
