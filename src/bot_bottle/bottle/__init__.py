"""The life of a bottle: settings, run, records, commands on running ones, removal."""
