# What does an operator look at? Depth and age, the quota and who it turned away, errors and latency, workers, store.

locals {
  queue = aws_sqs_queue.jobs.name
  dead  = aws_sqs_queue.dead.name
  table = aws_dynamodb_table.ledger.name
  topic = aws_sns_topic.notices.name

  # Two a row, twelve wide, six high each.
  widgets = concat(
    [
      {
        title = "Backlog"
        unit  = "messages"
        stat  = "Maximum"
        metrics = [
          ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", local.queue, { label = "waiting" }],
          ["AWS/SQS", "ApproximateNumberOfMessagesNotVisible", "QueueName", local.queue, { label = "in hand" }],
          ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", local.dead, { label = "dead letters" }],
        ]
      },
      {
        title   = "Age of the oldest job (promised: ${var.oldest_job_seconds} s)"
        unit    = "seconds"
        stat    = "Maximum"
        metrics = [["AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", local.queue, { label = "oldest" }]]
      },
      {
        title = "In and out"
        unit  = "messages"
        stat  = "Sum"
        metrics = [
          ["AWS/SQS", "NumberOfMessagesSent", "QueueName", local.queue, { label = "sent" }],
          ["AWS/SQS", "NumberOfMessagesDeleted", "QueueName", local.queue, { label = "done" }],
        ]
      },
      {
        title   = "Quota used, reservations included"
        unit    = "% of tokens per minute"
        stat    = "Average"
        metrics = [for name, lane in local.lanes : ["Aquifer", "QuotaUtilisation", "Lane", lane, { label = name }]]
      },
      {
        title = "Breakers open, and throttles, as workers see them"
        unit  = "0 or 1, calls"
        stat  = "Maximum"
        metrics = flatten([for name, lane in local.lanes : [
          { row = ["Aquifer", "BreakerOpen", "Lane", lane, { label = "${name}: breaker open" }] },
          { row = ["Aquifer", "Throttles", "Lane", lane, { label = "${name}: throttles", stat = "Sum" }] },
        ]])[*].row
      },
      {
        title   = "Jobs ended"
        unit    = "jobs"
        stat    = "Sum"
        metrics = [for status in ["succeeded", "failed", "rejected", "expired"] : ["Aquifer", "JobsEnded", "Status", status, { label = status }]]
      },
      {
        title   = "Age of the oldest job that a worker holds"
        unit    = "seconds"
        stat    = "Maximum"
        metrics = [["Aquifer", "OldestJobSeconds", { label = "oldest" }]]
      },
      {
        title   = "Throttles"
        unit    = "calls"
        stat    = "Sum"
        metrics = [for name, model in local.models_here : ["AWS/Bedrock", "InvocationThrottles", "ModelId", model.id, { label = name }]]
      },
      {
        title = "Calls and errors"
        unit  = "calls"
        stat  = "Sum"
        metrics = flatten([for name, model in local.models_here : [
          { row = ["AWS/Bedrock", "Invocations", "ModelId", model.id, { label = "${name}: calls" }] },
          { row = ["AWS/Bedrock", "InvocationServerErrors", "ModelId", model.id, { label = "${name}: server errors" }] },
          { row = ["AWS/Bedrock", "InvocationClientErrors", "ModelId", model.id, { label = "${name}: client errors" }] },
        ]])[*].row
      },
      {
        title = "Tokens"
        unit  = "tokens"
        stat  = "Sum"
        metrics = flatten([for name, model in local.models_here : [
          { row = ["AWS/Bedrock", "InputTokenCount", "ModelId", model.id, { label = "${name}: input" }] },
          { row = ["AWS/Bedrock", "OutputTokenCount", "ModelId", model.id, { label = "${name}: output" }] },
          { row = ["AWS/Bedrock", "CacheReadInputTokenCount", "ModelId", model.id, { label = "${name}: cache read" }] },
          { row = ["AWS/Bedrock", "CacheWriteInputTokenCount", "ModelId", model.id, { label = "${name}: cache write" }] },
        ]])[*].row
      },
      {
        title   = "Latency of a call, 95th percentile"
        unit    = "ms"
        stat    = "p95"
        metrics = [for name, model in local.models_here : ["AWS/Bedrock", "InvocationLatency", "ModelId", model.id, { label = name }]]
      },
      {
        title = "Store"
        unit  = "units, notices"
        stat  = "Sum"
        metrics = [
          ["AWS/DynamoDB", "ConsumedWriteCapacityUnits", "TableName", local.table, { label = "write units" }],
          ["AWS/DynamoDB", "ConsumedReadCapacityUnits", "TableName", local.table, { label = "read units" }],
          ["AWS/DynamoDB", "WriteThrottleEvents", "TableName", local.table, { label = "writes throttled" }],
          ["AWS/SNS", "NumberOfMessagesPublished", "TopicName", local.topic, { label = "notices" }],
          ["AWS/SNS", "NumberOfNotificationsFailed", "TopicName", local.topic, { label = "notices not delivered" }],
        ]
      },
      {
        title = "What only a person can mend"
        unit  = "log lines"
        stat  = "Sum"
        metrics = [
          ["Aquifer", "LanesOut", { label = "lanes out" }],
          ["Aquifer", "CredentialsRefused", { label = "credentials refused" }],
        ]
      },
    ],
    [for cluster in aws_ecs_cluster.workers[*].name : {
      title = "Workers"
      unit  = "workers, %"
      stat  = "Average"
      metrics = [
        ["ECS/ContainerInsights", "RunningTaskCount", "ClusterName", cluster, "ServiceName", aws_ecs_service.worker[0].name, { label = "running" }],
        ["AWS/ECS", "CPUUtilization", "ClusterName", cluster, "ServiceName", aws_ecs_service.worker[0].name, { label = "CPU %" }],
        ["AWS/ECS", "MemoryUtilization", "ClusterName", cluster, "ServiceName", aws_ecs_service.worker[0].name, { label = "memory %" }],
      ]
    }],
  )
}

resource "aws_cloudwatch_dashboard" "aquifer" {
  dashboard_name = var.name

  dashboard_body = jsonencode({
    widgets = concat(
      [for place, widget in local.widgets : {
        type   = "metric"
        x      = 12 * (place % 2)
        y      = 6 * floor(place / 2)
        width  = 12
        height = 6
        properties = {
          title   = widget.title
          region  = var.region
          view    = "timeSeries"
          stat    = widget.stat
          period  = 60
          metrics = widget.metrics
          yAxis   = { left = { min = 0, label = widget.unit, showUnits = false } }
        }
      }],
      [{
        type   = "log"
        x      = 0
        y      = 6 * ceil(length(local.widgets) / 2)
        width  = 24
        height = 6
        properties = {
          title  = "Warnings and errors"
          region = var.region
          view   = "table"
          query = join(" | ", [
            "SOURCE '${aws_cloudwatch_log_group.worker.name}'",
            "fields @timestamp, @message",
            "filter @message like /WARN|ERROR/",
            "sort @timestamp desc",
            "limit 50",
          ])
        }
      }],
    )
  })
}
