# Tables, figures and one page with all of them, from the evaluations' files alone; MLflow is brought up to them.


rule report:
    input:
        report_inputs,
    output:
        page=report(
            f"{RESULTS}/report/{{scope}}/report.html",
            caption="../report/page.rst",
            category="Study",
            labels={"report": "{scope}"},
        ),
        metrics=f"{RESULTS}/report/{{scope}}/metrics.json",
    log:
        f"{LOGS}/report_{{scope}}.log",
    conda:
        ENVIRONMENT
    resources:
        **CLUSTER,
        mem_mb=2000,
        runtime=30,
    params:
        scale=SCALE,
        folder=subpath(output.page, parent=True),
    message:
        "rendering tables, figures and {output.page}"
    shell:
        "fgaseg report --quiet --scope {wildcards.scope} --scale {params.scale} --out {params.folder} > {log} 2>&1"


rule track:
    input:
        rules.report.output,
    output:
        touch(f"{RESULTS}/tracked/{{scope}}"),
    log:
        f"{LOGS}/track_{{scope}}.log",
    conda:
        ENVIRONMENT
    resources:
        **CLUSTER,
        mem_mb=1000,
        runtime=30,
    params:
        scale=SCALE,
    message:
        "bringing MLflow up to the results"
    shell:
        "fgaseg track --scale {params.scale} > {log} 2>&1"
