# What do the workers say, and what is counted of it? Their log, and the few of its lines that are worth an alarm whenever
# they come. A pattern is a phrase of src/telemetry.rs: a test compares. Numbers stand in the log as well, once a minute, in a
# form from which CloudWatch makes metrics by itself: src/telemetry/emf.rs lists them.

resource "aws_cloudwatch_log_group" "worker" {
  name              = "/aquifer/${var.name}"
  retention_in_days = var.log_days
}

# A lane is out when the model is not enabled, not there, or not allowed: nobody but a person can mend that.
resource "aws_cloudwatch_log_metric_filter" "lanes_out" {
  name           = "${var.name}-lanes-out"
  log_group_name = aws_cloudwatch_log_group.worker.name
  pattern        = "\"lane is out\""

  metric_transformation {
    namespace = "Aquifer"
    name      = "LanesOut"
    value     = "1"
    unit      = "Count"
  }
}

resource "aws_cloudwatch_log_metric_filter" "credentials_refused" {
  name           = "${var.name}-credentials-refused"
  log_group_name = aws_cloudwatch_log_group.worker.name
  pattern        = "\"credentials refused\""

  metric_transformation {
    namespace = "Aquifer"
    name      = "CredentialsRefused"
    value     = "1"
    unit      = "Count"
  }
}
