"""Monitoring: what was served, how good it was, and whom it concerns.

served               the topic of served answers → Delta `served_features`
consistency          served values compared with recomputed values
attribution          the reason of each difference, from the `arrivals` of the events
drift                how far features have moved since training; the live quality of the champion
experiment           variants compared by their outcomes
logged_training_set  a training set of the values that were served
normal               what the days and the views before were like
freshness            the age of the newest event of a group, and the coverage of its entities
alerts               messages to a log or a webhook, once each
"""
