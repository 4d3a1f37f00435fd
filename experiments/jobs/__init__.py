"""What one trial of each larger experiment does: functions of JSON arguments alone."""
