# One training a run id. Checkpoints are no declared outputs, so that they outlive a failed job.


rule train:
    input:
        run_inputs,
    output:
        f"{RESULTS}/runs/{{run}}/model.safetensors",
    log:
        f"{LOGS}/train/{{run}}.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=MEMORY_MB,
        gpu=GPUS,
    params:
        scale=SCALE,
    message:
        "training {wildcards.run}; follow it with: tail -f {log}"
    shell:
        "fgaseg train {wildcards.run} --scale {params.scale} > {log} 2>&1"
