"""Real faults against real jobs: a MongoDB server of its own, processes that are killed, all that is stored."""
