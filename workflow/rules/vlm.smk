# CLIP's weights, fetched or expanded once.


rule vlm:
    input:
        TRACKED_DATA,
    output:
        str(PLAN.paths.vlm("{backbone}")),
    log:
        f"{LOGS}/vlm/{{backbone}}.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=MEMORY_MB,
        runtime=60,
    params:
        scale=SCALE,
    message:
        "providing the weights of backbone {wildcards.backbone}"
    shell:
        "fgaseg vlm {wildcards.backbone} --scale {params.scale} > {log} 2>&1"
