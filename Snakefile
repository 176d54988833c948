# The study as a workflow: data -> backbone -> trainings -> evaluations -> tables and figures.
#
#   snakemake --cores 2 main                             Table I with the default model
#   snakemake --cores 2 all                              every table and figure of the paper
#   snakemake --cores 2 fidelity                         what the paper's open choices change
#   snakemake --cores 2 --config scale=paper -- all      the same at the paper's scale


configfile: "params/workflow.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/vlm.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


report: "workflow/report/workflow.rst"


rule main:
    input:
        study("main"),


rule all:
    input:
        study("all"),


rule fidelity:
    input:
        study("fidelity"),
