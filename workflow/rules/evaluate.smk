# One job scores a row on all benchmarks.


rule evaluate:
    input:
        evaluation_inputs,
    output:
        f"{RESULTS}/evaluations/{{evaluation}}/evaluation.json",
        f"{RESULTS}/evaluations/{{evaluation}}/counts.npz",
        f"{RESULTS}/evaluations/{{evaluation}}/panels.json",
    log:
        f"{LOGS}/evaluate/{{evaluation}}.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=MEMORY_MB,
        gpu=GPUS,
        runtime=600,
    params:
        scale=SCALE,
    message:
        "evaluating {wildcards.evaluation} on all benchmarks"
    shell:
        "fgaseg evaluate {wildcards.evaluation} --scale {params.scale} > {log} 2>&1"
