"""What an embedding job costs."""


def embed_options(wildcards):
    """Options of `genome-lm embed`; a window that is not given is one that every model can read."""
    window = min(1024, size(wildcards.model)[2])
    return options({"window": window, **EMBEDDING}, leave_out=("shards",))


def embedded_bases(wildcards):
    """Bases that a job embeds, those of overlapping windows and of the other strand counted again."""
    window = EMBEDDING.get("window", min(1024, size(wildcards.model)[2]))
    overlap = window / EMBEDDING.get("stride", window)
    strands = 2 if EMBEDDING.get("strand") == "both" else 1
    return split_bases(EMBEDDING)(wildcards) * overlap * strands / SHARDS
