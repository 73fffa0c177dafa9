# How do the workers run? As an ECS service on Fargate: no machines to look after, and any of them may die at any time.

resource "aws_ecs_cluster" "workers" {
  count = local.runs_workers ? 1 : 0
  name  = var.name

  # The number of running workers, by which the service scales, is one of its metrics. They are billed.
  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_ecs_cluster_capacity_providers" "workers" {
  count              = local.runs_workers ? 1 : 0
  cluster_name       = aws_ecs_cluster.workers[0].name
  capacity_providers = ["FARGATE", "FARGATE_SPOT"]
}

resource "aws_ecs_task_definition" "worker" {
  count                    = local.runs_workers ? 1 : 0
  family                   = "${var.name}-worker"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.worker_cpu
  memory                   = var.worker_memory
  task_role_arn            = aws_iam_role.worker.arn
  execution_role_arn       = aws_iam_role.start.arn

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }

  # No health check: the image holds the worker and nothing that could ask it. One that fails exits and is replaced; one
  # that hangs loses its leases to others, and the alarm on the oldest job tells.
  container_definitions = jsonencode([{
    name      = "worker"
    image     = var.worker_image
    essential = true
    user      = "65532:65532"

    environment = [for name, value in merge({
      AWS_REGION                  = var.region
      AQUIFER_BACKEND             = "aws"
      AQUIFER_AWS_QUEUE_URL       = aws_sqs_queue.jobs.url
      AQUIFER_AWS_DEAD_LETTER_URL = aws_sqs_queue.dead.url
      AQUIFER_AWS_TABLE           = aws_dynamodb_table.ledger.name
      AQUIFER_AWS_BUCKET          = aws_s3_bucket.store.id
      AQUIFER_AWS_PREFIX          = var.prefix
      AQUIFER_AWS_TOPIC_ARN       = aws_sns_topic.notices.arn
      AQUIFER_WORKER_LEASE        = "${var.lease_seconds}s"
      AQUIFER_WORKER_DRAIN        = "${var.drain_seconds}s"
    }, var.worker_environment) : { name = name, value = value }]

    # After SIGTERM; then it is killed. What it still holds by then comes back to others when its leases end.
    stopTimeout = var.drain_seconds + 15

    linuxParameters = {
      # Nothing here needs a capability, and orphans of nobody's need an init.
      initProcessEnabled = true
      capabilities       = { drop = ["ALL"] }
    }

    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.worker.name
        awslogs-region        = var.region
        awslogs-stream-prefix = "worker"
        # A log that is slow must not hold up the work.
        mode            = "non-blocking"
        max-buffer-size = "4m"
      }
    }
  }])
}

resource "aws_ecs_service" "worker" {
  count           = local.runs_workers ? 1 : 0
  name            = "${var.name}-worker"
  cluster         = aws_ecs_cluster.workers[0].id
  task_definition = aws_ecs_task_definition.worker[0].arn
  desired_count   = var.min_workers
  propagate_tags  = "SERVICE"

  dynamic "capacity_provider_strategy" {
    for_each = { for kind, percent in {
      FARGATE      = 100 - var.spot_percent
      FARGATE_SPOT = var.spot_percent
    } : kind => percent if percent > 0 }

    content {
      capacity_provider = capacity_provider_strategy.key
      weight            = capacity_provider_strategy.value
    }
  }

  network_configuration {
    subnets          = var.subnets
    security_groups  = var.security_groups
    assign_public_ip = var.assign_public_ip
  }

  # New workers share the queue with old ones, which then drain.
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  lifecycle {
    # Scaling decides, see scaling.tf.
    ignore_changes = [desired_count]
  }

  depends_on = [aws_ecs_cluster_capacity_providers.workers, aws_iam_role_policy.worker, aws_iam_role_policy.start]
}

# What ECS itself may do to start a worker: fetch the image, write the log. The worker may do neither.

data "aws_iam_policy_document" "start" {
  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.worker.arn}:*"]
  }
  statement {
    sid       = "Fetch"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [aws_ecr_repository.worker.arn]
  }
  # Knows no resource.
  statement {
    sid       = "LogIn"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }
}

resource "aws_iam_role" "start" {
  name               = "${var.name}-start-${var.region}"
  description        = "Lets ECS start workers of ${var.name}"
  assume_role_policy = data.aws_iam_policy_document.tasks.json
}

resource "aws_iam_role_policy" "start" {
  name   = "start-workers"
  role   = aws_iam_role.start.id
  policy = data.aws_iam_policy_document.start.json
}
