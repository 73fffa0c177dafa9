# What must somebody know? Each alarm watches a metric that AWS documents, one that logs.tf counts, or one that the workers
# write into their log for CloudWatch: metrics.json lists them with their source, and a test compares.
#
# Two kinds. A page says that work is lost, stuck or failing. A note says that the quota binds, which is what a queue is
# there for: nobody is woken.

locals {
  # What workers say is said here, wherever the lane is.
  lanes = { for call in local.called : "${call.name}-${call.region}" => "${call.region}/${call.id}" }
  # Metrics of a model lie in the region in which it was called; alarms see their own region only.
  models_here = {
    for call in local.called : call.name => {
      id                = call.id
      tokens_per_minute = var.models[call.name].tokens_per_minute
      output_burndown   = var.models[call.name].output_burndown
    } if call.region == var.region
  }
}

# ---------------------------------------------------------------------------------------------------------- queues

resource "aws_cloudwatch_metric_alarm" "dead_letters" {
  alarm_name          = "${var.name}-dead-letters"
  alarm_description   = "Jobs were set aside. See: aquifer dead list"
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.dead.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.page_arns
  ok_actions          = var.page_arns
}

# SQS leaves messages out of this metric that were received three times and more: a job that only waits for quota may be
# one of them. It tells that workers do not keep up, not how long the unluckiest job waits.
resource "aws_cloudwatch_metric_alarm" "oldest_job" {
  alarm_name          = "${var.name}-oldest-job"
  alarm_description   = "A job waits longer than promised. See: aquifer status, aquifer explain"
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateAgeOfOldestMessage"
  dimensions          = { QueueName = aws_sqs_queue.jobs.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 5
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.oldest_job_seconds
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.page_arns
  ok_actions          = var.page_arns
}

# What SQS leaves out: the age of the oldest job that a worker holds, which may well be one that was handed back for hours.
resource "aws_cloudwatch_metric_alarm" "oldest_job_in_hand" {
  alarm_name          = "${var.name}-oldest-job-in-hand"
  alarm_description   = "A job that a worker holds waits longer than promised. See: aquifer explain"
  namespace           = "Aquifer"
  metric_name         = "OldestJobSeconds"
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 5
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.oldest_job_seconds
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.page_arns
  ok_actions          = var.page_arns
}

# ---------------------------------------------------------------------------------------------------------- models

# Workers look once a minute, and an open breaker lets a probe through after a minute: three of five looks is a service that
# stays away.
resource "aws_cloudwatch_metric_alarm" "breaker_open" {
  for_each            = local.lanes
  alarm_name          = "${var.name}-breaker-open-${each.key}"
  alarm_description   = "The service fails call after call, so none is sent there. See: aquifer lanes"
  namespace           = "Aquifer"
  metric_name         = "BreakerOpen"
  dimensions          = { Lane = each.value }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.page_arns
  ok_actions          = var.page_arns
}

# What the workers have charged to the quota they know of, reservations included. The one below is what the service has
# settled, of the quota of the console: it sees others who use the account, too.
resource "aws_cloudwatch_metric_alarm" "utilisation_reserved" {
  for_each            = local.lanes
  alarm_name          = "${var.name}-utilisation-reserved-${each.key}"
  alarm_description   = "Workers reserve above 80 % of the tokens a minute for a quarter of an hour: the quota is what binds"
  namespace           = "Aquifer"
  metric_name         = "QuotaUtilisation"
  dimensions          = { Lane = each.value }
  statistic           = "Average"
  period              = 60
  evaluation_periods  = 15
  comparison_operator = "GreaterThanThreshold"
  threshold           = 80
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.note_arns
}

resource "aws_cloudwatch_metric_alarm" "throttled_often" {
  for_each            = local.models_here
  alarm_name          = "${var.name}-throttled-often-${each.key}"
  alarm_description   = "More than 10 throttles in 5 minutes. See: aquifer lanes; who else uses this quota?"
  namespace           = "AWS/Bedrock"
  metric_name         = "InvocationThrottles"
  dimensions          = { ModelId = each.value.id }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 10
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.note_arns
}

resource "aws_cloudwatch_metric_alarm" "throttled_steadily" {
  for_each            = local.models_here
  alarm_name          = "${var.name}-throttled-steadily-${each.key}"
  alarm_description   = "Throttles in three periods of 5 minutes in a row: the pace is too high. See: aquifer lanes"
  namespace           = "AWS/Bedrock"
  metric_name         = "InvocationThrottles"
  dimensions          = { ModelId = each.value.id }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.note_arns
}

# What was settled, of the quota. What is reserved meanwhile comes on top and is no metric of AWS's; that of its own which
# estimates quota use leaves reservations out too, and is documented as no ground to act on.
resource "aws_cloudwatch_metric_alarm" "utilisation" {
  for_each            = { for name, model in local.models_here : name => model if model.tokens_per_minute != null }
  alarm_name          = "${var.name}-utilisation-${each.key}"
  alarm_description   = "Above 80 % of the tokens a minute for a quarter of an hour: the quota is what binds"
  evaluation_periods  = 15
  comparison_operator = "GreaterThanThreshold"
  threshold           = 80
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.note_arns

  metric_query {
    id          = "used"
    label       = "% of tokens per minute"
    return_data = true
    # A sum passes over what has no data, as where nothing is cached.
    expression = join("", [
      "100 * (SUM([input, cached]) + ${each.value.output_burndown} * output)",
      " / ${each.value.tokens_per_minute}",
    ])
  }
  metric_query {
    id = "input"

    metric {
      namespace   = "AWS/Bedrock"
      metric_name = "InputTokenCount"
      dimensions  = { ModelId = each.value.id }
      stat        = "Sum"
      period      = 60
    }
  }
  metric_query {
    id = "cached"

    metric {
      namespace   = "AWS/Bedrock"
      metric_name = "CacheWriteInputTokenCount"
      dimensions  = { ModelId = each.value.id }
      stat        = "Sum"
      period      = 60
    }
  }
  metric_query {
    id = "output"

    metric {
      namespace   = "AWS/Bedrock"
      metric_name = "OutputTokenCount"
      dimensions  = { ModelId = each.value.id }
      stat        = "Sum"
      period      = 60
    }
  }
}

# The documentation says in one place that Invocations counts successes, in another that it counts what was accepted. This
# share is exact under the first, and at most a quarter of a point too kind around 95 % under the second. Throttles are in
# neither. Below 20 calls it says nothing.
resource "aws_cloudwatch_metric_alarm" "success" {
  for_each            = local.models_here
  alarm_name          = "${var.name}-success-${each.key}"
  alarm_description   = "Less than 95 % of calls succeeded over 10 minutes. See: aquifer explain, and the log"
  evaluation_periods  = 1
  comparison_operator = "LessThanThreshold"
  threshold           = 95
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.page_arns
  ok_actions          = var.page_arns

  metric_query {
    id          = "succeeded"
    label       = "% of calls succeeded"
    return_data = true
    expression  = "IF(total >= 20, 100 - 100 * failures / total, 100)"
  }
  # A sum passes over what has no data: a model without a single error has no metric of errors.
  metric_query {
    id         = "failures"
    expression = "SUM([server, client])"
  }
  metric_query {
    id         = "total"
    expression = "SUM([invocations, server, client])"
  }
  metric_query {
    id = "invocations"

    metric {
      namespace   = "AWS/Bedrock"
      metric_name = "Invocations"
      dimensions  = { ModelId = each.value.id }
      stat        = "Sum"
      period      = 600
    }
  }
  metric_query {
    id = "server"

    metric {
      namespace   = "AWS/Bedrock"
      metric_name = "InvocationServerErrors"
      dimensions  = { ModelId = each.value.id }
      stat        = "Sum"
      period      = 600
    }
  }
  metric_query {
    id = "client"

    metric {
      namespace   = "AWS/Bedrock"
      metric_name = "InvocationClientErrors"
      dimensions  = { ModelId = each.value.id }
      stat        = "Sum"
      period      = 600
    }
  }
}

# ------------------------------------------------------------------------------------------------------------ jobs

# By what became of jobs, not of calls: one that succeeds at the third attempt has succeeded. Below 20 jobs it says nothing.
resource "aws_cloudwatch_metric_alarm" "success_of_jobs" {
  alarm_name          = "${var.name}-success-of-jobs"
  alarm_description   = "Less than 95 % of jobs succeeded over 10 minutes. See: aquifer status, aquifer explain"
  evaluation_periods  = 1
  comparison_operator = "LessThanThreshold"
  threshold           = 95
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.page_arns
  ok_actions          = var.page_arns

  metric_query {
    id          = "share"
    label       = "% of jobs succeeded"
    return_data = true
    expression  = "IF(total >= 20, 100 * succeeded / total, 100)"
  }
  # A sum passes over what has no data: a status that did not occur.
  metric_query {
    id         = "total"
    expression = "SUM([succeeded, failed, rejected, expired])"
  }
  dynamic "metric_query" {
    for_each = ["succeeded", "failed", "rejected", "expired"]

    content {
      id = metric_query.value

      metric {
        namespace   = "Aquifer"
        metric_name = "JobsEnded"
        dimensions  = { Status = metric_query.value }
        stat        = "Sum"
        period      = 600
      }
    }
  }
}

# It tells, it does not stop: what stops is the cost cap of a batch.
resource "aws_cloudwatch_metric_alarm" "budget" {
  count               = var.budget_usd_a_day == null ? 0 : 1
  alarm_name          = "${var.name}-budget"
  alarm_description   = "The calls of a day cost more than budgeted. See: aquifer status"
  namespace           = "Aquifer"
  metric_name         = "CostUsd"
  statistic           = "Sum"
  period              = 86400
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = coalesce(var.budget_usd_a_day, 0)
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.page_arns
}

# --------------------------------------------------------------------------------------------------------- workers

resource "aws_cloudwatch_metric_alarm" "lanes_out" {
  alarm_name          = "${var.name}-lanes-out"
  alarm_description   = "A model is not enabled, not there, or not allowed to the workers. See: aquifer check"
  namespace           = "Aquifer"
  metric_name         = "LanesOut"
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.page_arns
}

resource "aws_cloudwatch_metric_alarm" "credentials_refused" {
  alarm_name          = "${var.name}-credentials-refused"
  alarm_description   = "Bedrock refuses the workers' credentials; all work waits. See: the worker's role"
  namespace           = "Aquifer"
  metric_name         = "CredentialsRefused"
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.page_arns
}

resource "aws_cloudwatch_metric_alarm" "workers_missing" {
  count               = local.runs_workers ? 1 : 0
  alarm_name          = "${var.name}-workers-missing"
  alarm_description   = "Fewer workers run than there should be at least. See: the events of the ECS service"
  namespace           = "ECS/ContainerInsights"
  metric_name         = "RunningTaskCount"
  statistic           = "Average"
  period              = 60
  evaluation_periods  = 10
  comparison_operator = "LessThanThreshold"
  threshold           = var.min_workers
  # A service without a task emits nothing.
  treat_missing_data = "breaching"
  alarm_actions      = var.page_arns
  ok_actions         = var.page_arns

  dimensions = {
    ClusterName = aws_ecs_cluster.workers[0].name
    ServiceName = aws_ecs_service.worker[0].name
  }
}
