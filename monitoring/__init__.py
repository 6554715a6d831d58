"""Monitoring: checks of served answers, of the data, and of the deployment, and the alerts to people.

served               the topic of served answers → Delta `served_features`
consistency          served values compared with recomputed values
attribution          the reason of each difference, from the `arrivals` of the events
answers              the served answers of a model, each with its inputs
drift                how far the inputs of a model have moved since training
live_quality         how good the champion's predictions turned out
experiment           variants compared by their outcomes
logged_training_set  a training set of the values that were served
normal               the figures of previous days and views, with which the checks compare new data
freshness            the age of the newest event of a group, and the coverage of its entities
watchdog             whether the online store can be rebuilt, and keeps its data
alerts               messages to a log or a webhook
"""
