# Where do jobs wait, and where do they go that cannot be done?

locals {
  # Jobs in a queue are lost after this, so it is the longest that SQS offers; `aquifer check` asks for it.
  retention_seconds = 14 * 24 * 3600
  # SQS takes 1 MiB; provider 5 knows of no more than this. What is larger travels as a claim check through the bucket.
  # Who raises it by hand (MaximumMessageSize) is not contradicted, see ignore_changes.
  message_bytes = 262144
}

resource "aws_sqs_queue" "jobs" {
  name                       = var.name
  visibility_timeout_seconds = var.lease_seconds
  message_retention_seconds  = local.retention_seconds
  max_message_size           = local.message_bytes
  receive_wait_time_seconds  = 20
  sqs_managed_sse_enabled    = true

  # A backstop only. SQS counts every receive, also those that only waited for quota: workers decide by claims of their
  # own what is poison, and send it there themselves, with the reason.
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead.arn
    maxReceiveCount     = 1000
  })

  lifecycle {
    ignore_changes = [max_message_size]
  }
}

resource "aws_sqs_queue" "dead" {
  name                       = "${var.name}-dead"
  visibility_timeout_seconds = var.lease_seconds
  message_retention_seconds  = local.retention_seconds
  max_message_size           = local.message_bytes
  sqs_managed_sse_enabled    = true

  lifecycle {
    ignore_changes = [max_message_size]
  }
}

resource "aws_sqs_queue_redrive_allow_policy" "dead" {
  queue_url = aws_sqs_queue.dead.id

  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.jobs.arn]
  })
}

data "aws_iam_policy_document" "jobs_queue" {
  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [aws_sqs_queue.jobs.arn]

    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  dynamic "statement" {
    for_each = local.uploads_by_s3 ? [aws_s3_bucket.store.arn] : []

    content {
      sid       = "Uploads"
      actions   = ["sqs:SendMessage"]
      resources = [aws_sqs_queue.jobs.arn]

      principals {
        type        = "Service"
        identifiers = ["s3.amazonaws.com"]
      }
      condition {
        test     = "ArnEquals"
        variable = "aws:SourceArn"
        values   = [statement.value]
      }
      # The bucket's name could one day be somebody else's.
      condition {
        test     = "StringEquals"
        variable = "aws:SourceAccount"
        values   = [local.account]
      }
    }
  }

  dynamic "statement" {
    for_each = aws_cloudwatch_event_rule.uploads[*].arn

    content {
      sid       = "UploadsByRule"
      actions   = ["sqs:SendMessage"]
      resources = [aws_sqs_queue.jobs.arn]

      principals {
        type        = "Service"
        identifiers = ["events.amazonaws.com"]
      }
      condition {
        test     = "ArnEquals"
        variable = "aws:SourceArn"
        values   = [statement.value]
      }
    }
  }
}

resource "aws_sqs_queue_policy" "jobs" {
  queue_url = aws_sqs_queue.jobs.id
  policy    = data.aws_iam_policy_document.jobs_queue.json
}

data "aws_iam_policy_document" "dead_queue" {
  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [aws_sqs_queue.dead.arn]

    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  dynamic "statement" {
    for_each = aws_cloudwatch_event_rule.uploads[*].arn

    content {
      sid       = "UploadsByRule"
      actions   = ["sqs:SendMessage"]
      resources = [aws_sqs_queue.dead.arn]

      principals {
        type        = "Service"
        identifiers = ["events.amazonaws.com"]
      }
      condition {
        test     = "ArnEquals"
        variable = "aws:SourceArn"
        values   = [statement.value]
      }
    }
  }
}

resource "aws_sqs_queue_policy" "dead" {
  queue_url = aws_sqs_queue.dead.id
  policy    = data.aws_iam_policy_document.dead_queue.json
}
