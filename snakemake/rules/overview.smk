"""The study as a whole: one table, one page, what the jobs cost."""


localrules:
    overview,
    jobs,


rule overview:
    input:
        summaries=for_runs("train/summary.json"),
        evaluations=EVALUATED,
        pages=for_runs("report.html"),
        tuned=FINETUNED,
        suites=suites("suite.json") if "suite" in config else [],
    output:
        page=ensure(RESULTS / "report.html", non_empty=True),
        table=report(
            RESULTS / "runs.tsv",
            caption="../report/runs.rst",
            category="Study",
            labels={"what": "all runs"},
        ),
    log:
        RESULTS / "logs/overview.log",
    benchmark:
        JOBS / "overview.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=1_000,
        runtime=10,
    params:
        # A function: Snakemake takes braces in a text for wildcards.
        title=lambda wildcards: config["title"],
        runs=runs(),
        evaluations=EVALUATIONS,
        suites=SUITE_RUNS if "suite" in config else [],
        tunings=TUNINGS,
        metrics=STUDY.metrics,
    script:
        "../scripts/overview.py"


rule jobs:
    input:
        # All other rules have ended, and written their tables, when these are there.
        RESULTS / "report.html",
        EMBEDDED,
        SCORED,
        MEASURED,
        COMPARED,
        SUITES,
    output:
        report(
            RESULTS / "jobs.svg",
            caption="../report/jobs.rst",
            category="Resources",
            labels={"what": "time and memory"},
        ),
    log:
        RESULTS / "logs/jobs.log",
    benchmark:
        JOBS / "jobs.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=1_000,
        runtime=10,
    params:
        folder=JOBS,
    script:
        "../scripts/jobs.py"
