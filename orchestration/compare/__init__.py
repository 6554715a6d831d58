"""`braid compare`: the same events through several deployments, and the cost of each deployment.

events       the events of the home's lake or of an example, divided into a history that is loaded and a live part that is streamed
declared     the project of a deployment, as it is declared and with a changed declaration
freshness    streams the live part at a steady rate, and measures the time until an event is in the online store
deployment   runs one deployment from load to removal, and measures the figures of a variant
report       the figures as a table, as Markdown and as a plot

The deployments run one after the other, each with its own home and its own services. Their answers are compared with brute force over the raw
events (`orchestration.proof`).
"""
