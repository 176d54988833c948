# Tables and figures, from the evaluations' files alone.


rule report:
    input:
        report_inputs,
    output:
        markdown=f"{RESULTS}/report/{{scope}}/table_1.md",
        csv=f"{RESULTS}/report/{{scope}}/table_1.csv",
        latex=f"{RESULTS}/report/{{scope}}/table_1.tex",
        text=f"{RESULTS}/report/{{scope}}/table_1.txt",
        metrics=f"{RESULTS}/report/{{scope}}/metrics.json",
        html=report(
            f"{RESULTS}/report/{{scope}}/table_1.html",
            caption="../report/table_1.rst",
            category="Tables",
            labels={"table": "Table I", "shows": "mIoU on five benchmarks"},
        ),
        segmentation=report(
            f"{RESULTS}/report/{{scope}}/segmentation.png",
            caption="../report/segmentation.rst",
            category="Figures",
            labels={
                "figure": "Segmentation",
                "shows": "images, ground truth, predictions",
            },
        ),
        pseudo_masks=report(
            f"{RESULTS}/report/{{scope}}/pseudo_masks.png",
            caption="../report/pseudo_masks.rst",
            category="Figures",
            labels={"figure": "Pseudo-masks", "shows": "global, local and fused maps"},
        ),
        training=report(
            f"{RESULTS}/report/{{scope}}/training.png",
            caption="../report/training.rst",
            category="Figures",
            labels={"figure": "Training", "shows": "losses and validation mIoU"},
        ),
    log:
        f"{LOGS}/report_{{scope}}.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        scale=SCALE,
        folder=subpath(output.markdown, parent=True),
    message:
        "rendering Table I and the figures ({wildcards.scope})"
    shell:
        "fgaseg report --quiet --scale {params.scale} --out {params.folder} > {log} 2>&1"
