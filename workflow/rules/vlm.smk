# CLIP's weights, fetched or expanded once; on this machine, for a cluster's nodes often reach no network.


rule vlm:
    input:
        TRACKED_DATA,
        weights_file,
    output:
        f"{RESULTS}/vlm/{{backbone}}-{{identity}}.pt",
    log:
        f"{LOGS}/vlm/{{backbone}}-{{identity}}.log",
    localrule: True
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
