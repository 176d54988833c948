# One job scores a row on all benchmarks; another one measures times per image, alone on the machine.


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
        **CLUSTER,
        mem_mb=MEMORY_MB,
        gpu=GPUS,
        runtime=600,
    params:
        scale=SCALE,
    message:
        "evaluating {wildcards.evaluation} on all benchmarks"
    shell:
        "fgaseg evaluate {wildcards.evaluation} --scale {params.scale} > {log} 2>&1"


rule timing:
    input:
        lambda wildcards: [
            file
            for row in PLAN.tables[wildcards.table].rows
            for file in (
                f"{RESULTS}/runs/{row.run_id}/model.safetensors",
                f"{RESULTS}/evaluations/{row.eval_id}/evaluation.json",
            )
        ],
    output:
        f"{RESULTS}/timings/{{table}}.json",
    log:
        f"{LOGS}/timing/{{table}}.log",
    conda:
        ENVIRONMENT
    threads: all_cores
    resources:
        **CLUSTER,
        slurm_extra="--exclusive",
        mem_mb=MEMORY_MB,
        gpu=GPUS,
        runtime=120,
    params:
        scale=SCALE,
        how=TIMING,
    message:
        "timing the rows of {wildcards.table}"
    shell:
        "fgaseg timing {wildcards.table} --scale {params.scale} > {log} 2>&1"
