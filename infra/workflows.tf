# Who coordinates what the workers do? The state machines of statemachine/, each with a role that may do what its states
# do and no more. They wait for workers by task token; the work itself, its pace and its retries stay with the queue.

locals {
  standard = var.workflows ? toset(["document-pipeline", "batch-inference"]) : toset([])
  express  = var.workflows && var.express_model != null ? toset(["express-inference"]) : toset([])
  machines = setunion(local.standard, local.express)

  # The one way in which the Express workflow's model is called from here.
  express_call = one([for call in local.called : call if call.name == var.express_model && call.region == var.region])
  express_arns = local.express_call == null ? [] : !local.express_call.routed ? [
    "arn:${local.partition}:bedrock:${var.region}::foundation-model/${local.express_call.bare}",
    ] : [
    "arn:${local.partition}:bedrock:${var.region}:${local.account}:inference-profile/${local.express_call.id}",
    "arn:${local.partition}:bedrock:*::foundation-model/${local.express_call.bare}",
  ]

  filled_in = {
    bucket       = aws_s3_bucket.store.id
    keep_seconds = var.workflow_rows_days * 24 * 3600
    model        = var.express_model == null ? "" : var.express_model
    model_id     = local.express_call == null ? "" : local.express_call.id
    prefix       = var.prefix
    queue_url    = aws_sqs_queue.jobs.url
    table        = aws_dynamodb_table.ledger.name
    topic_arn    = aws_sns_topic.notices.arn
  }
}

resource "aws_sfn_state_machine" "standard" {
  for_each = local.standard
  name     = "${var.name}-${each.key}"
  type     = "STANDARD"
  role_arn = aws_iam_role.standard[0].arn

  definition = replace(
    templatefile("${path.module}/../statemachine/${each.key}.asl.json", local.filled_in),
    "arn:aws:states:::", "arn:${local.partition}:states:::",
  )

  logging_configuration {
    level                  = "ERROR"
    log_destination        = "${aws_cloudwatch_log_group.workflows[0].arn}:*"
    include_execution_data = false
  }

  # It tries the log when it is made.
  depends_on = [aws_iam_role_policy.standard]
}

resource "aws_sfn_state_machine" "express" {
  for_each = local.express
  name     = "${var.name}-${each.key}"
  type     = "EXPRESS"
  role_arn = aws_iam_role.express[0].arn

  definition = replace(
    templatefile("${path.module}/../statemachine/${each.key}.asl.json", local.filled_in),
    "arn:aws:states:::", "arn:${local.partition}:states:::",
  )

  # The only trace of an Express execution; without what it was given and what it answered, which may be prompts.
  logging_configuration {
    level                  = "ERROR"
    log_destination        = "${aws_cloudwatch_log_group.workflows[0].arn}:*"
    include_execution_data = false
  }

  depends_on = [aws_iam_role_policy.express]
}

# A name below /aws/vendedlogs/ keeps the log's policy from growing with every machine.
resource "aws_cloudwatch_log_group" "workflows" {
  count             = var.workflows ? 1 : 0
  name              = "/aws/vendedlogs/states/${var.name}"
  retention_in_days = var.log_days
}

# ----------------------------------------------------------------------------------------------------------- roles

data "aws_iam_policy_document" "standard" {
  # Workers do what is asked for, and answer the token.
  statement {
    sid       = "Ask"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.jobs.arn]
  }
  # Of the table's rows only those of analyses: what became of jobs is the workers' to say.
  statement {
    sid       = "Record"
    actions   = ["dynamodb:PutItem"]
    resources = [aws_dynamodb_table.ledger.arn]

    condition {
      test     = "ForAllValues:StringLike"
      variable = "dynamodb:LeadingKeys"
      values   = ["analysis/*"]
    }
  }
  # Asking whether a manifest is there takes the permission to read it.
  statement {
    sid       = "CheckManifest"
    actions   = ["s3:GetObject"]
    resources = ["${local.store}manifests/*"]
  }
  statement {
    sid       = "Notify"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.notices.arn]
  }
  # These know no resources.
  statement {
    sid       = "Log"
    actions   = local.deliver_logs
    resources = ["*"]
  }
}

data "aws_iam_policy_document" "express" {
  dynamic "statement" {
    for_each = length(local.express_arns) > 0 ? [local.express_arns] : []

    content {
      sid       = "Infer"
      actions   = ["bedrock:InvokeModel"]
      resources = statement.value
    }
  }
  # The service writes the answer there in this role's name.
  statement {
    sid       = "Answer"
    actions   = ["s3:PutObject"]
    resources = ["${local.store}express/*"]
  }
  statement {
    sid       = "Record"
    actions   = ["dynamodb:GetItem", "dynamodb:PutItem"]
    resources = [aws_dynamodb_table.ledger.arn]

    condition {
      test     = "ForAllValues:StringLike"
      variable = "dynamodb:LeadingKeys"
      values   = ["express/*"]
    }
  }
  statement {
    sid       = "HandOver"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.jobs.arn]
  }
  statement {
    sid       = "Notify"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.notices.arn]
  }
  statement {
    sid       = "Log"
    actions   = local.deliver_logs
    resources = ["*"]
  }
}

locals {
  # What Step Functions needs to set up a log (source: its developer guide, logging with CloudWatch Logs).
  deliver_logs = [
    "logs:CreateLogDelivery",
    "logs:GetLogDelivery",
    "logs:UpdateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:DescribeResourcePolicies",
    "logs:DescribeLogGroups",
  ]
}

resource "aws_iam_role" "standard" {
  count              = length(local.standard) > 0 ? 1 : 0
  name               = "${var.name}-workflows-${var.region}"
  description        = "Workflows of ${var.name} that wait for its workers"
  assume_role_policy = data.aws_iam_policy_document.states.json
}

resource "aws_iam_role_policy" "standard" {
  count  = length(local.standard) > 0 ? 1 : 0
  name   = "coordinate"
  role   = aws_iam_role.standard[0].id
  policy = data.aws_iam_policy_document.standard.json
}

resource "aws_iam_role" "express" {
  count              = length(local.express) > 0 ? 1 : 0
  name               = "${var.name}-express-${var.region}"
  description        = "The Express workflow of ${var.name}"
  assume_role_policy = data.aws_iam_policy_document.states.json
}

resource "aws_iam_role_policy" "express" {
  count  = length(local.express) > 0 ? 1 : 0
  name   = "answer-or-hand-over"
  role   = aws_iam_role.express[0].id
  policy = data.aws_iam_policy_document.express.json
}

data "aws_iam_policy_document" "states" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["states.amazonaws.com"]
    }
    # Step Functions acts for many accounts; only for this one here.
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

# ---------------------------------------------------------------------------------------------------------- alarms

locals {
  machine_arns = merge(
    { for name, machine in aws_sfn_state_machine.standard : name => machine.arn },
    { for name, machine in aws_sfn_state_machine.express : name => machine.arn },
  )
}

# A document or a batch that is not whole ends as failed, and so does whatever could not be made known.
resource "aws_cloudwatch_metric_alarm" "executions_failed" {
  for_each            = local.machines
  alarm_name          = "${var.name}-executions-failed-${each.key}"
  alarm_description   = "An execution ended as failed. See: its error and cause in the Step Functions console, aquifer explain"
  namespace           = "AWS/States"
  metric_name         = "ExecutionsFailed"
  dimensions          = { StateMachineArn = local.machine_arns[each.key] }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.note_arns
  ok_actions          = var.note_arns
}

# Every task times out before the machine does, so that this is one whose last steps hung: nobody was told by it.
resource "aws_cloudwatch_metric_alarm" "executions_timed_out" {
  for_each            = local.machines
  alarm_name          = "${var.name}-executions-timed-out-${each.key}"
  alarm_description   = "An execution ended by its own timeout, without a notice. See: its history in the Step Functions console"
  namespace           = "AWS/States"
  metric_name         = "ExecutionsTimedOut"
  dimensions          = { StateMachineArn = local.machine_arns[each.key] }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.page_arns
  ok_actions          = var.page_arns
}

# Starts and transitions above the account's quota wait; none is lost.
resource "aws_cloudwatch_metric_alarm" "executions_throttled" {
  for_each            = local.machines
  alarm_name          = "${var.name}-executions-throttled-${each.key}"
  alarm_description   = "Executions wait for the account's quota of state transitions. See: Service Quotas, Step Functions"
  namespace           = "AWS/States"
  metric_name         = "ExecutionThrottled"
  dimensions          = { StateMachineArn = local.machine_arns[each.key] }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.note_arns
}

resource "aws_cloudwatch_metric_alarm" "uploads_not_told" {
  count               = local.uploads_by_eventbridge ? 1 : 0
  alarm_name          = "${var.name}-uploads-not-told"
  alarm_description   = "EventBridge could not tell the queue of an upload. See: aquifer dead list, the policy of the queue"
  namespace           = "AWS/Events"
  metric_name         = "FailedInvocations"
  dimensions          = { RuleName = aws_cloudwatch_event_rule.uploads[0].name }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.page_arns
  ok_actions          = var.page_arns
}
