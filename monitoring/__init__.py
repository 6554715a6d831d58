"""Monitoring: what was served, beside what is right; how features and models change; and who is told.

served              the topic of served answers → Delta `served_features`
consistency         served values beside recomputed ones; `attribution` gives each difference its reason, from `arrivals`
drift               how far features have moved since training, and how the champion's answers turn out
experiment          variants compared by their outcomes
logged_training_set a training set of the very values that were served
freshness           the age of each group's newest event, and which entities have features
alerts              what people are told
"""
