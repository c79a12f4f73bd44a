"""The command line: parses, calls the client, prints. It owns no state and decides nothing about the data.

One module per group of commands, loaded when its command is run (main.py holds the table). cluster.py finds and
opens the cluster, output.py prints, failures.py turns an error into cause, next command and exit code.
"""
