"""The study as a whole: one table, one page, what the jobs cost."""


localrules:
    overview,
    benchmarks,


rule overview:
    input:
        summaries=for_runs("train/summary.json"),
        evaluations=for_runs("evaluation.json"),
        pages=for_runs("report.html"),
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
        BENCHMARKS / "overview.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=1_000,
        runtime=10,
    params:
        title=config["title"],
        runs=runs(),
    script:
        "../scripts/overview.py"


rule benchmarks:
    input:
        # All other rules have ended, and written their tables, when these are there.
        RESULTS / "report.html",
        EMBEDDED,
        SCORED,
        FINETUNED,
        COMPARED,
        SUITES,
    output:
        report(
            RESULTS / "benchmarks.svg",
            caption="../report/benchmarks.rst",
            category="Resources",
            labels={"what": "time and memory"},
        ),
    log:
        RESULTS / "logs/benchmarks.log",
    benchmark:
        BENCHMARKS / "benchmarks.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=1_000,
        runtime=10,
    params:
        folder=BENCHMARKS,
    script:
        "../scripts/benchmarks.py"
