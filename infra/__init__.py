"""What braid stands on: settings, sessions, embedded services, deployment. Imports no other room."""
