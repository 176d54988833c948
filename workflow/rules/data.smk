# Raw datasets -> the common form.


rule prepare:
    input:
        dataset_source,
    output:
        f"{RESULTS}/data/{{content}}/{{dataset}}/index.csv",
        f"{RESULTS}/data/{{content}}/{{dataset}}/classes.json",
    log:
        f"{LOGS}/prepare/{{dataset}}-{{content}}.log",
    conda:
        ENVIRONMENT
    threads: PREPARE_PROCESSES
    resources:
        **CLUSTER,
        mem_mb=PREPARE_MB,
        runtime=240,
    params:
        scale=SCALE,
    message:
        "preparing {wildcards.dataset}"
    shell:
        "fgaseg prepare {wildcards.dataset} --scale {params.scale} --workers {threads} > {log} 2>&1"
