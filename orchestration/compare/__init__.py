"""`braid compare`: the same events through several deployments, and what each costs.

events       the events: those of the home's lake or of an example, divided into a history that is loaded and a live part that is streamed
declared     the project of a deployment, as it is declared and with a changed declaration
freshness    streams the live part at a steady rate, and measures when the online store knows an event
deployment   one deployment from load to removal: the figures of a variant
report       the figures as a table, as JSON and as a plot

Each deployment has a home of its own and services of its own, one deployment after the other. Its answers are compared with brute force over the raw
events (`orchestration.proof`).
"""
