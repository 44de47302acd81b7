"""What an embedding job costs."""


def embedded_bases(wildcards):
    """Bases that a job embeds, those of overlapping windows and of the other strand counted again."""
    section = config["embedding"] or {}
    overlap = section.get("window", 1) / section.get("stride", section.get("window", 1))
    strands = 2 if section.get("strand") == "both" else 1
    return (
        split_bases(section)(wildcards) * overlap * strands / section.get("shards", 1)
    )
