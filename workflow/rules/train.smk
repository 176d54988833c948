# One training a run id. Checkpoints are no declared outputs, so that they outlive a failed job. On a cluster the rule is
# local all the same: its command submits a job of several processes, or takes up the one that an earlier call has
# submitted, and waits. It looks after its own retries.


rule train:
    input:
        run_inputs,
    output:
        f"{RESULTS}/runs/{{run}}/model.safetensors",
    log:
        f"{LOGS}/train/{{run}}.log",
    retries: 0
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        mem_mb=MEMORY_MB,
        gpu=GPUS,
        on=where_to_train,
    params:
        scale=SCALE,
    message:
        "training {wildcards.run}; follow it with: tail -f {log}"
    shell:
        "fgaseg train {wildcards.run} --scale {params.scale} --on {resources.on} > {log} 2>&1"
