# CLIP's weights, fetched or expanded once.


rule vlm:
    input:
        TRACKED_DATA,
    output:
        f"{RESULTS}/vlm/{{backbone}}-{{identity}}.pt",
    log:
        f"{LOGS}/vlm/{{backbone}}-{{identity}}.log",
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
