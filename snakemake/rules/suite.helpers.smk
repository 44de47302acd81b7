"""The suites that the study could have, and their files."""

# (data, model, seed, genome) of each.
SUITE_RUNS = [(*run, genome) for run in runs() for genome in looked_at(config, run[0])]


def suites(name):
    """A file of each suite."""
    return [
        f"{RUN}/suite/{genome}/{name}".format(data=data, model=model, seed=seed)
        for data, model, seed, genome in SUITE_RUNS
    ]
