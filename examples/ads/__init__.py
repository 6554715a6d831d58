"""An ad exchange: counters of users, ads and slots, for a model of whether an impression is clicked."""
