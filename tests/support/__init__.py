"""What the tests stand on: checkpoints in released form and a reference forward pass, without bq or torch."""
