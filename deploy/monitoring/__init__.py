"""What an operator sees and is told, built from the metric catalogue: dashboards, rules, alerts, objectives."""
