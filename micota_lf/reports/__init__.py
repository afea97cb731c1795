"""From finished steps to tables and figures."""
