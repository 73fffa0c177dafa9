# How does a file that somebody drops into the bucket become a job? The bucket tells the queue, or EventBridge does:
# `upload_events`. Workers read either form, and one upload is one job however often it is told of.

locals {
  uploads_by_s3          = var.upload_prefix != null && var.upload_events == "s3"
  uploads_by_eventbridge = var.upload_prefix != null && var.upload_events == "eventbridge"
}

resource "aws_s3_bucket_notification" "uploads" {
  count       = var.upload_prefix == null ? 0 : 1
  bucket      = aws_s3_bucket.store.id
  eventbridge = local.uploads_by_eventbridge

  dynamic "queue" {
    for_each = local.uploads_by_s3 ? [aws_sqs_queue.jobs.arn] : []

    content {
      id            = "uploads"
      queue_arn     = queue.value
      events        = ["s3:ObjectCreated:*"]
      filter_prefix = var.upload_prefix
    }
  }

  # S3 tries the queue when it is told of it.
  depends_on = [aws_sqs_queue_policy.jobs]
}

resource "aws_cloudwatch_event_rule" "uploads" {
  count       = local.uploads_by_eventbridge ? 1 : 0
  name        = "${var.name}-uploads"
  description = "Objects below ${var.upload_prefix} become jobs of ${var.name}"

  event_pattern = jsonencode({
    source      = ["aws.s3"]
    detail-type = ["Object Created"]
    detail = {
      bucket = { name = [aws_s3_bucket.store.id] }
      object = { key = [{ prefix = var.upload_prefix }] }
    }
  })
}

resource "aws_cloudwatch_event_target" "uploads" {
  count     = local.uploads_by_eventbridge ? 1 : 0
  rule      = aws_cloudwatch_event_rule.uploads[0].name
  target_id = "jobs"
  arn       = aws_sqs_queue.jobs.arn

  # What could not be told stands with the dead letters, where an alarm watches.
  dead_letter_config {
    arn = aws_sqs_queue.dead.arn
  }
  retry_policy {
    maximum_event_age_in_seconds = 86400
    maximum_retry_attempts       = 185
  }

  depends_on = [aws_sqs_queue_policy.jobs, aws_sqs_queue_policy.dead]
}
