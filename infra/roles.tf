# Who may do what? Producers send, workers work, operators look, and mend. A role each, and nobody may do more than that.

locals {
  queue_arns = [aws_sqs_queue.jobs.arn, aws_sqs_queue.dead.arn]
  store      = "${aws_s3_bucket.store.arn}/${var.prefix}"
  # Documents, and files of jobs that a workflow has enqueued.
  inputs = [for prefix in [var.upload_prefix, var.batch_prefix] : "${aws_s3_bucket.store.arn}/${prefix}*" if prefix != null]

  # What a model is called where: the id, or the profile that routes it between the regions of a geography.
  called = flatten([
    for name, model in var.models : [
      for region, geography in var.endpoints : {
        name   = name
        region = region
        bare   = model.id
        id     = geography == "" ? model.id : "${geography}.${model.id}"
        routed = geography != ""
      }
    ]
  ])
  # A call to a profile needs the profile where it is called, and the model wherever the profile may send it.
  profile_arns = distinct([
    for call in local.called :
    "arn:${local.partition}:bedrock:${call.region}:${local.account}:inference-profile/${call.id}" if call.routed
  ])
  behind_profile_arns = distinct([
    for call in local.called : "arn:${local.partition}:bedrock:*::foundation-model/${call.bare}" if call.routed
  ])
  direct_arns = distinct([
    for call in local.called :
    "arn:${local.partition}:bedrock:${call.region}::foundation-model/${call.bare}" if !call.routed
  ])
  # Streams are calls of their own.
  infer = ["bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream"]
}

# -------------------------------------------------------------------------------------------------------- producer

# A service that sends by itself, and `aquifer enqueue`; but not `--retry-failed`, which opens rows of jobs again and is the
# operator's. Nothing here reads a job, a row of one, or a result.
data "aws_iam_policy_document" "producer" {
  statement {
    sid       = "Send"
    actions   = ["sqs:SendMessage", "sqs:GetQueueUrl"]
    resources = [aws_sqs_queue.jobs.arn]
  }
  # Jobs too large for a message, and what an input held in its order.
  statement {
    sid       = "Put"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload"]
    resources = ["${local.store}jobs/*", "${local.store}rolls/*"]
  }
  # A batch that gets another input counts no job twice.
  statement {
    sid       = "ReadRolls"
    actions   = ["s3:GetObject"]
    resources = ["${local.store}rolls/*"]
  }
  statement {
    sid       = "ListRolls"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.store.arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${var.prefix}rolls/*"]
    }
  }
  # How far an input was sent; so that one that was broken off goes on there.
  statement {
    sid       = "Mark"
    actions   = ["dynamodb:Query", "dynamodb:PutItem"]
    resources = [aws_dynamodb_table.ledger.arn]

    condition {
      test     = "ForAllValues:StringLike"
      variable = "dynamodb:LeadingKeys"
      values   = ["roll/*"]
    }
  }
  # How many jobs a batch has, and that there is such a batch.
  statement {
    sid       = "Seal"
    actions   = ["dynamodb:UpdateItem"]
    resources = [aws_dynamodb_table.ledger.arn]

    condition {
      test     = "ForAllValues:StringLike"
      variable = "dynamodb:LeadingKeys"
      values   = ["batch/*", "batches"]
    }
  }
  # Whether what the configuration names is there, before anything is sent.
  statement {
    sid       = "LookAtQueues"
    actions   = ["sqs:GetQueueAttributes"]
    resources = local.queue_arns
  }
  statement {
    sid       = "LookAtTable"
    actions   = ["dynamodb:DescribeTable"]
    resources = [aws_dynamodb_table.ledger.arn]
  }
  statement {
    sid       = "FindBucket"
    actions   = ["s3:GetBucketLocation"]
    resources = [aws_s3_bucket.store.arn]
  }
}

resource "aws_iam_role" "producer" {
  name               = "${var.name}-producer-${var.region}"
  description        = "Sends jobs to ${var.name}"
  assume_role_policy = data.aws_iam_policy_document.trust["producer"].json
}

resource "aws_iam_role_policy" "producer" {
  name   = "send-jobs"
  role   = aws_iam_role.producer.id
  policy = data.aws_iam_policy_document.producer.json
}

# ---------------------------------------------------------------------------------------------------------- worker

data "aws_iam_policy_document" "worker" {
  statement {
    sid = "Work"
    actions = [
      "sqs:ReceiveMessage",
      "sqs:DeleteMessage",
      "sqs:ChangeMessageVisibility",
      "sqs:GetQueueUrl",
      "sqs:GetQueueAttributes",
    ]
    resources = [aws_sqs_queue.jobs.arn]
  }
  # The chunks of a document are jobs of their own, and the last of them sends the document again; so are the lines of a file that a
  # workflow has enqueued.
  statement {
    sid       = "SendParts"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.jobs.arn]
  }
  statement {
    sid       = "SetAside"
    actions   = ["sqs:SendMessage", "sqs:GetQueueUrl", "sqs:GetQueueAttributes"]
    resources = [aws_sqs_queue.dead.arn]
  }
  # A transaction needs what its parts need. Of all rows only those of gates are deleted, below: the others have a TTL.
  statement {
    sid = "Record"
    actions = [
      "dynamodb:DescribeTable",
      "dynamodb:GetItem",
      "dynamodb:BatchGetItem",
      "dynamodb:Query",
      "dynamodb:PutItem",
      "dynamodb:UpdateItem",
      "dynamodb:ConditionCheckItem",
    ]
    resources = [aws_dynamodb_table.ledger.arn]
  }
  statement {
    sid       = "OpenGates"
    actions   = ["dynamodb:DeleteItem"]
    resources = [aws_dynamodb_table.ledger.arn]

    condition {
      test     = "ForAllValues:StringEquals"
      variable = "dynamodb:LeadingKeys"
      values   = ["gates"]
    }
  }
  statement {
    sid       = "Store"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
    resources = ["${local.store}*"]
  }
  dynamic "statement" {
    for_each = length(local.inputs) > 0 ? [local.inputs] : []

    content {
      sid       = "ReadInputs"
      actions   = ["s3:GetObject", "s3:GetObjectVersion"]
      resources = statement.value
    }
  }
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.store.arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${var.prefix}*"]
    }
  }
  statement {
    sid       = "FindBucket"
    actions   = ["s3:GetBucketLocation"]
    resources = [aws_s3_bucket.store.arn]
  }
  statement {
    sid       = "Notify"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.notices.arn]
  }
  statement {
    sid       = "Infer"
    actions   = local.infer
    resources = concat(local.profile_arns, local.direct_arns)
  }
  # Elsewhere than in the configured regions only where a profile sends the call: residency rests on it.
  dynamic "statement" {
    for_each = length(local.profile_arns) > 0 ? [local.profile_arns] : []

    content {
      sid       = "InferBehindProfiles"
      actions   = local.infer
      resources = local.behind_profile_arns

      condition {
        test     = "StringEquals"
        variable = "bedrock:InferenceProfileArn"
        values   = statement.value
      }
    }
  }
  dynamic "statement" {
    for_each = length(var.agent_alias_arns) > 0 ? [var.agent_alias_arns] : []

    content {
      sid       = "AskAgents"
      actions   = ["bedrock:InvokeAgent"]
      resources = statement.value
    }
  }
  dynamic "statement" {
    for_each = length(var.knowledge_base_arns) > 0 ? [var.knowledge_base_arns] : []

    content {
      sid       = "Ingest"
      actions   = ["bedrock:StartIngestionJob", "bedrock:GetIngestionJob", "bedrock:ListIngestionJobs"]
      resources = statement.value
    }
  }
  # A task token is the permission; these actions know no resources.
  statement {
    sid       = "Report"
    actions   = ["states:SendTaskSuccess", "states:SendTaskFailure"]
    resources = ["*"]
  }
  # An upload whose rule names a pipeline: the execution is named by the upload, so that a second one is refused.
  dynamic "statement" {
    for_each = [for machine in aws_sfn_state_machine.standard : machine.arn if endswith(machine.name, "-document-pipeline")]

    content {
      sid       = "StartPipelines"
      actions   = ["states:StartExecution"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role" "worker" {
  name               = "${var.name}-worker-${var.region}"
  description        = "Works the queue of ${var.name}"
  assume_role_policy = data.aws_iam_policy_document.tasks.json
}

resource "aws_iam_role_policy" "worker" {
  name   = "work-the-queue"
  role   = aws_iam_role.worker.id
  policy = data.aws_iam_policy_document.worker.json
}

# -------------------------------------------------------------------------------------------------------- operator

data "aws_iam_policy_document" "operator" {
  statement {
    sid = "LookAtQueues"
    actions = [
      "sqs:GetQueueUrl",
      "sqs:GetQueueAttributes",
      "sqs:ListDeadLetterSourceQueues",
      "sqs:ListMessageMoveTasks",
    ]
    resources = local.queue_arns
  }
  # `aquifer dead list|show|redrive|drop`: one by one by receiving, sending and deleting, all at once by a move task,
  # which receives and deletes in the operator's name too.
  statement {
    sid = "EmptyDeadLetters"
    actions = [
      "sqs:ReceiveMessage",
      "sqs:DeleteMessage",
      "sqs:ChangeMessageVisibility",
      "sqs:PurgeQueue",
      "sqs:StartMessageMoveTask",
      "sqs:CancelMessageMoveTask",
    ]
    resources = [aws_sqs_queue.dead.arn]
  }
  statement {
    sid       = "Redrive"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.jobs.arn]
  }
  statement {
    sid = "ReadTable"
    actions = [
      "dynamodb:DescribeTable",
      "dynamodb:DescribeTimeToLive",
      "dynamodb:DescribeContinuousBackups",
      "dynamodb:GetItem",
      "dynamodb:BatchGetItem",
      "dynamodb:Query",
    ]
    resources = [aws_dynamodb_table.ledger.arn]
  }
  # A redrive opens the next generation of a job; `aquifer lanes` shuts and opens breakers; `aquifer forget` deletes.
  statement {
    sid = "MendTable"
    actions = [
      "dynamodb:PutItem",
      "dynamodb:UpdateItem",
      "dynamodb:ConditionCheckItem",
      "dynamodb:DeleteItem",
      "dynamodb:BatchWriteItem",
    ]
    resources = [aws_dynamodb_table.ledger.arn]
  }
  statement {
    sid       = "ReadStore"
    actions   = ["s3:GetObject"]
    resources = ["${local.store}*"]
  }
  # A redrive may bring a job whose body is too large for a message; `aquifer forget` deletes bodies.
  statement {
    sid       = "MendStore"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:DeleteObject"]
    resources = ["${local.store}*"]
  }
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.store.arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${var.prefix}*"]
    }
  }
  # `aquifer lanes` announces a breaker that it turned.
  statement {
    sid       = "Announce"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.notices.arn]
  }
  # What `aquifer check` looks at.
  statement {
    sid = "CheckSettings"
    actions = [
      "s3:GetBucketLocation",
      "s3:GetBucketNotification",
      "s3:GetBucketPublicAccessBlock",
      "s3:GetEncryptionConfiguration",
      "s3:GetLifecycleConfiguration",
      "sns:GetTopicAttributes",
    ]
    resources = [aws_s3_bucket.store.arn, aws_sns_topic.notices.arn]
  }
  # `aquifer check` looks at the pipelines of uploads.
  statement {
    sid       = "LookAtPipelines"
    actions   = ["states:DescribeStateMachine"]
    resources = ["arn:${local.partition}:states:${var.region}:${local.account}:stateMachine:${var.name}-*"]
  }
  statement {
    sid       = "CheckModels"
    actions   = ["bedrock:GetFoundationModel", "bedrock:GetInferenceProfile"]
    resources = concat(local.profile_arns, local.behind_profile_arns, local.direct_arns)
  }
  dynamic "statement" {
    for_each = length(var.agent_alias_arns) > 0 ? [var.agent_alias_arns] : []

    content {
      sid       = "CheckAgents"
      actions   = ["bedrock:GetAgentAlias"]
      resources = statement.value
    }
  }
  # Metrics and quotas know no resources.
  statement {
    sid       = "Measure"
    actions   = ["cloudwatch:GetMetricData", "servicequotas:ListServiceQuotas", "servicequotas:GetServiceQuota"]
    resources = ["*"]
  }
  statement {
    sid = "ReadLogs"
    actions = [
      "logs:DescribeLogStreams",
      "logs:FilterLogEvents",
      "logs:GetLogEvents",
      "logs:StartQuery",
      "logs:StartLiveTail",
    ]
    resources = [aws_cloudwatch_log_group.worker.arn, "${aws_cloudwatch_log_group.worker.arn}:*"]
  }
  statement {
    sid       = "ReadLogQueries"
    actions   = ["logs:GetQueryResults", "logs:StopQuery"]
    resources = ["*"]
  }
}

resource "aws_iam_role" "operator" {
  name               = "${var.name}-operator-${var.region}"
  description        = "Looks after ${var.name}: status, results, dead letters"
  assume_role_policy = data.aws_iam_policy_document.trust["operator"].json
}

resource "aws_iam_role_policy" "operator" {
  name   = "look-and-mend"
  role   = aws_iam_role.operator.id
  policy = data.aws_iam_policy_document.operator.json
}

# ----------------------------------------------------------------------------------------------------------- trust

data "aws_iam_policy_document" "trust" {
  for_each = {
    producer = var.producer_principals
    operator = var.operator_principals
  }

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type = "AWS"
      # The account itself: then the policies of its users and roles decide who may.
      identifiers = length(each.value) > 0 ? each.value : ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }
}

data "aws_iam_policy_document" "tasks" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
    # ECS acts for many accounts; only for this one here.
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}
