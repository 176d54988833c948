"""FGAseg as a torch module: knows nothing of files, tracking, clusters or the workflow.

Reading order, as the data flow: clip, tuning, p2tformer, t2p, supplementation, aggregation, fast, decoder, fgaseg.
Axes in all modules: B images, K classes, P prompts a class, C embedding size, D hidden channels, h x w patch grid.
"""
