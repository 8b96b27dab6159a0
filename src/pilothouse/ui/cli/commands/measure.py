"""Load the gateway: TTFT, TPOT, latency, throughput, attainment, goodput."""

from pilothouse.ui.cli.stage import stage_command

command = stage_command("measure", __doc__)
