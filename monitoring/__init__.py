"""Monitoring: checks of served answers, of the data, and of the deployment, and the alerts to people.

served               the topic of served answers → Delta `served_features`
consistency          served values compared with recomputed values
attribution          the reason for each difference
arrivals             when events arrived and when views were built, for `attribution`
answers              the served answers of a model, each with its inputs
drift                the distance between the inputs of a model now and at its training
live_quality         the quality of the champion's served predictions, measured by their outcomes
experiment           variants compared by their outcomes
logged_training_set  a training set of the values that were served
normal               the figures of previous days and views, with which the checks compare new data
freshness            the age of the newest event of a group, and the coverage of its entities
watchdog             whether the online store keeps its data and can be rebuilt, and whether the stream receives its messages
alerts               messages to a log or a webhook
"""
